"""Searches for good plans at a target ratio, and keeps every plan it evaluates as a sample.

One search is one (searcher, target, seed); its samples are one Parquet shard, named after a
fingerprint of all that decides its content, so that a killed or extended run pays only for what is
missing.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lop.errors import LopError
from lop.files import replacing
from lop.models.checkpoint import read_json
from lop.plan import MIN_KEEP, Plan
from lop.progress import progress
from lop.reward import Reward
from lop.search.base import Evaluated, Searcher
from lop.search.evolution import evolution
from lop.search.knapsack import knapsack
from lop.search.mcts import mcts
from lop.search.sampling import random, uniform

SEARCHERS: Mapping[str, Searcher] = {
    searcher.__name__: searcher for searcher in (mcts, evolution, random, uniform, knapsack)
}

INDEX = "index.json"
COLUMNS = (  # of a shard
    "target", "plan", "kept", "reward", "searcher", "seed",
    "simulation", "depth", "seconds", "fingerprint",
)  # fmt: skip

__all__ = [
    "SEARCHERS",
    "Evaluated",
    "best_plan",
    "by_searcher",
    "curve",
    "list_searches",
    "read_search",
    "run_shard",
    "search",
]


def search(
    reward: Reward,
    target: float,
    seed: int,
    simulations: int,
    searcher: str = "mcts",
    root: Plan | None = None,
    min_keep: float = MIN_KEEP,
    **settings: Any,
) -> pd.DataFrame:
    """Run one search from `root` (default: the uniform plan); a row for every plan evaluated.

    Columns: target, plan (ratios), kept (neurons), reward, searcher, seed, simulation, depth,
    seconds (since the search began), fingerprint.
    """
    key = shard_key(reward, target, seed, simulations, searcher, root, min_keep, settings)
    # seeded by its key, so that a resumed grid equals an uninterrupted one
    rng = np.random.default_rng([seed, round(target * 1_000_000)])
    start = root or Plan.uniform(reward.widths, target, min_keep)
    steps = SEARCHERS[searcher](reward, start, simulations, rng, min_keep=min_keep, **settings)
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
                "searcher": searcher,
                "seed": seed,
                "simulation": step.simulation,
                "depth": step.depth,
                "seconds": time.perf_counter() - begun,
                "fingerprint": key,
            }
        )
    return pd.DataFrame(rows)


def by_searcher(
    settings: Mapping[str, Any] | Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Search settings, or a list of them, by the searcher they are for; LopError for two of one."""
    listed = [settings] if isinstance(settings, Mapping) else settings
    named = [{"searcher": "mcts", **each} for each in listed]
    chosen = {each["searcher"]: each for each in named}
    if len(chosen) < len(named):
        raise LopError(f"settings for {', '.join(e['searcher'] for e in named)}: one a searcher")
    return chosen


def shard_key(
    reward: Reward,
    target: float,
    seed: int,
    simulations: int,
    searcher: str,
    root: Plan | None,
    min_keep: float,
    settings: Mapping[str, Any],
) -> str:
    """Twelve hex digits over everything that decides a search's samples.

    Raises LopError when there is no such searcher, it has no such setting, or nothing to do.
    """
    if simulations < 1:
        raise LopError(f"simulations {simulations}: expected at least 1")
    if searcher not in SEARCHERS:
        raise LopError(f"searcher {searcher!r}: expected one of {', '.join(SEARCHERS)}")
    known = list(inspect.signature(SEARCHERS[searcher]).parameters)[4:]
    if unknown := set(settings) - set(known):
        raise LopError(f"{searcher} has no setting {min(unknown)!r}; it has {', '.join(known)}")
    start = root and root.kept
    parts = [reward.fingerprint, target, seed, simulations, searcher, start, min_keep, settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def run_shard(
    out: str | Path,
    reward: Reward,
    target: float,
    seed: int,
    simulations: int,
    searcher: str = "mcts",
    root: Plan | None = None,
    min_keep: float = MIN_KEEP,
    **settings: Any,
) -> Path:
    """The shard of one search in directory `out`, searched for only if it is not there yet."""
    key = shard_key(reward, target, seed, simulations, searcher, root, min_keep, settings)
    path = Path(out) / f"{searcher}-{target:g}-{seed}-{key}.parquet"
    if not path.exists():
        samples = search(reward, target, seed, simulations, searcher, root, min_keep, **settings)
        with replacing(path) as tmp:
            samples.to_parquet(tmp, index=False)
    return path


def write_index(directory: str | Path, shards: Iterable[Path]) -> None:
    """Say which shards make up the current samples; others stay on disk, for when params return."""
    with replacing(Path(directory) / INDEX) as tmp:
        tmp.write_text(json.dumps([shard.name for shard in shards], indent=2) + "\n")


def read_search(directory: str | Path) -> pd.DataFrame:
    """All samples of a search directory's current shards, in order.

    Raises LopError when there is no search or a shard is missing or broken.
    """
    directory = Path(directory)
    if not (directory / INDEX).exists():
        raise LopError(f"{directory}: no {INDEX}; expected search samples, run the search first")
    shards = [_read_shard(directory / name) for name in read_json(directory / INDEX)]
    return pd.concat(shards, ignore_index=True)


def list_searches(directory: str | Path) -> pd.DataFrame:
    """What lies in a search directory: a row a shard, with the rewards it began at and ended at.

    `current` shards are those that `read_search` gives; others were made with other settings.
    Raises LopError when there is none or one is broken.
    """
    directory = Path(directory)
    current = read_json(directory / INDEX) if (directory / INDEX).exists() else []
    rows = []
    for path in directory.glob("[!.]*.parquet"):
        samples = _read_shard(path)
        first = samples.iloc[0]
        rows.append(
            {name: first[name] for name in ("searcher", "target", "seed")}
            | {"plans": len(samples), "began": first["reward"], "best": samples["reward"].max()}
            | {"fingerprint": first["fingerprint"], "current": path.name in current}
        )
    if not rows:
        raise LopError(f"{directory}: no search samples; run the search first")
    order = ["current", "searcher", "target", "seed"]
    return pd.DataFrame(rows).sort_values(order, ascending=[False, True, True, True])


def curve(samples: pd.DataFrame) -> pd.DataFrame:
    """One search by simulation: reward, best reward so far, and simulations per second so far."""
    ordered = samples.sort_values("simulation")
    count, seconds = ordered["simulation"] + 1, ordered["seconds"]
    return pd.DataFrame(
        {
            "simulation": ordered["simulation"],
            "reward": ordered["reward"],
            "best_reward": ordered["reward"].cummax(),
            "simulations_per_second": count / seconds.clip(lower=1e-9),
        }
    )


def _read_shard(path: Path) -> pd.DataFrame:
    try:
        samples = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise LopError(f"{path}: cannot read search samples: {error}") from error
    if missing := [name for name in COLUMNS if name not in samples]:
        raise LopError(f"{path}: no search samples, no column {', '.join(missing)}")
    if samples.empty:
        raise LopError(f"{path}: no search samples, no row: delete it and search again")
    return samples


def best_plan(samples: pd.DataFrame, widths: Iterable[int]) -> Plan:
    """The plan with the highest reward in a table of search samples."""
    kept = samples.loc[samples["reward"].idxmax(), "kept"]
    return Plan(tuple(widths), tuple(int(k) for k in kept))
