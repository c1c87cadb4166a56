"""Searches for good plans at a target ratio; every evaluated plan is kept as a sample.

One search is one (searcher, target, seed). Its samples are one Parquet shard, whose name contains a
fingerprint of everything that decides its content: a killed or extended run computes only the
missing shards.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lop.errors import LopError
from lop.files import replacing
from lop.models.fingerprints import digest
from lop.plan import Plan, Space
from lop.progress import progress
from lop.search.base import Evaluated, Searcher
from lop.search.carried import carried
from lop.search.drawn import HOLD_OUT, Drawn, held_out
from lop.search.evolution import evolution
from lop.search.knapsack import knapsack
from lop.search.local import local
from lop.search.mcts import mcts
from lop.search.sampling import random, uniform
from lop.search.shards import check_fits, curve, list_searches, read_search, write_index
from lop.search.surrogate import surrogate

if TYPE_CHECKING:
    from lop.reward import Reward

SEARCHERS: Mapping[str, Searcher] = {
    searcher.__name__: searcher
    for searcher in (surrogate, local, mcts, evolution, random, uniform, knapsack, carried)
}

FINALISTS = 3  # best plans of a search that are evaluated on the held-out samples
VERSION = 5  # of the plans: raise it when a change of this code changes them
CHANGES = {"knapsack": 1}  # added to VERSION for the plans of one searcher

__all__ = [
    "SEARCHERS",
    "Evaluated",
    "best_plan",
    "by_searcher",
    "check_fits",
    "curve",
    "list_searches",
    "read_search",
    "run_shard",
    "search",
    "write_index",
]


def search(
    reward: Reward,
    target: float,
    seed: int,
    simulations: int,
    searcher: str = "surrogate",
    root: Plan | None = None,
    hold_out: float = HOLD_OUT,
    **settings: Any,
) -> pd.DataFrame:
    """Run one search from `root` (default: the uniform plan); returns a row for every evaluated
    plan.

    A share `hold_out` of the reward's parts is held out from the search. The `FINALISTS` best
    plans, among those evaluated on all other samples, are then evaluated on it.

    Columns: target, plan (ratios), kept (units), reward, share (of the search's samples that the
    plan was evaluated on), gain (over the root, on the held-out samples; nan if not evaluated
    there), gain_error (its standard error), searcher, seed, simulation, depth, seconds (since the
    search began), fingerprint, model_fingerprint.
    """
    key = shard_key(reward, target, seed, simulations, searcher, root, hold_out, settings)
    # seeded by the search, so that a resumed run gives the same plans as an uninterrupted one
    rng = np.random.default_rng([seed, round(target * 1_000_000)])
    start = root or Plan.uniform(reward.space, target)
    seen, held = held_out(len(reward.parts), hold_out)
    drawn = Drawn(reward, seen)
    steps = SEARCHERS[searcher](drawn, start, simulations, rng, **settings)
    rows, begun, best = [], time.perf_counter(), -np.inf
    bar = progress(steps, f"{searcher} {target:g} seed {seed}", simulations, "simulation")
    for step in bar:
        best = max(best, step.reward)
        bar.set_postfix(best=f"{best:.4f}", refresh=False)
        rows.append(
            {
                "target": target,
                "plan": list(step.plan.ratios),
                "kept": list(step.plan.kept),
                "reward": step.reward,
                "share": step.share,
                "searcher": searcher,
                "seed": seed,
                "simulation": step.simulation,
                "depth": step.depth,
                "seconds": time.perf_counter() - begun,
                "fingerprint": key,
                "model_fingerprint": reward.model_fingerprint,
            }
        )
    return _checked(pd.DataFrame(rows), Drawn(reward, held), start)


def _checked(samples: pd.DataFrame, held: Drawn, root: Plan) -> pd.DataFrame:
    """The samples with `gain` and `gain_error` of the best plans on the held-out samples.

    The root's gain is 0. Without held-out samples no other plan has a gain.
    """
    checked = {root.kept: (0.0, 0.0)}
    whole = samples[samples["share"] == 1].sort_values("reward", ascending=False, kind="stable")
    others = [kept for kept in dict.fromkeys(whole["kept"].map(tuple)) if kept != root.kept]
    for kept in others[:FINALISTS] if held.parts else ():
        checked[kept] = held.gap(Plan(root.space, kept), root)
    found = [checked.get(tuple(kept), (np.nan, np.nan)) for kept in samples["kept"]]
    gains, errors = zip(*found, strict=True)
    return samples.assign(gain=gains, gain_error=errors)


def by_searcher(
    settings: Mapping[str, Any] | Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Search settings, or a list of them, by searcher; LopError for a searcher with two
    settings."""
    listed = [settings] if isinstance(settings, Mapping) else settings
    named = [{"searcher": "surrogate", **each} for each in listed]
    chosen = {each["searcher"]: each for each in named}
    if len(chosen) < len(named):
        names = ", ".join(each["searcher"] for each in named)
        raise LopError(f"settings for {names}: expected one for each searcher")
    return chosen


def shard_key(
    reward: Reward,
    target: float,
    seed: int,
    simulations: int,
    searcher: str,
    root: Plan | None,
    hold_out: float,
    settings: Mapping[str, Any],
) -> str:
    """Twelve hex digits over everything that decides the samples of a search.

    Raises LopError for an unknown searcher, an unknown setting, or fewer than one simulation.
    """
    if simulations < 1:
        raise LopError(f"simulations {simulations}: expected at least 1")
    if searcher not in SEARCHERS:
        raise LopError(f"searcher {searcher!r}: expected one of {', '.join(SEARCHERS)}")
    known = list(inspect.signature(SEARCHERS[searcher]).parameters)[4:]
    if unknown := set(settings) - set(known):
        raise LopError(f"{searcher} has no setting {min(unknown)!r}; it has {', '.join(known)}")
    space = root.space if root else reward.space
    start = root and root.kept, space.floors, space.multiple
    version = VERSION + CHANGES.get(searcher, 0)
    parts = [version, reward.fingerprint, target, seed, simulations, searcher, *start]
    return digest(*parts, hold_out, len(reward.parts), settings)


def run_shard(
    out: str | Path,
    reward: Reward,
    target: float,
    seed: int,
    simulations: int,
    searcher: str = "surrogate",
    root: Plan | None = None,
    hold_out: float = HOLD_OUT,
    **settings: Any,
) -> Path:
    """The shard of one search in directory `out`; the search runs only if the shard does not
    exist."""
    key = shard_key(reward, target, seed, simulations, searcher, root, hold_out, settings)
    path = Path(out) / f"{searcher}-{target:g}-{seed}-{key}.parquet"
    if not path.exists():
        samples = search(reward, target, seed, simulations, searcher, root, hold_out, **settings)
        with replacing(path) as tmp:
            samples.to_parquet(tmp, index=False)
    return path


def best_plan(samples: pd.DataFrame, space: Space) -> Plan:
    """The plan with the highest reward among those evaluated on all of the search's samples."""
    whole = samples[samples["share"] == 1]
    kept = whole.loc[whole["reward"].idxmax(), "kept"]
    return Plan(space, tuple(int(k) for k in kept))
