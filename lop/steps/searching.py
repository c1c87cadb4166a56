"""The steps from scores to search samples: the profile, and the searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lop.data.samples import read_samples
from lop.errors import LopError
from lop.files import check_file
from lop.importance import load_all_scores, made_for
from lop.models.checkpoint import load_processor, load_spread
from lop.models.quantized import others_of
from lop.models.stored import Stored
from lop.plan import Plan, Space
from lop.profile import SHARES, AtBits, Profile, beginning, measure, measure_bits, solve
from lop.reward import Reward
from lop.reward.choice import chosen
from lop.search import by_searcher, run_shard, write_index
from lop.search.carried import CARRIED, budgets, carried_plans, differences
from lop.search.drawn import HOLD_OUT
from lop.search.shards import check_directory, read_shards
from lop.workers import Each, in_processes, once_a_thread

PARTS = 10
MODULES = ["lop.steps.searching"]  # what a process that searches imports


def profile(
    out: Path,
    model_path: str,
    samples_path: Path,
    scores_dir: Path,
    score: str,
    shares: Sequence[float] = SHARES,
    compensate: bool | str = False,
    reward: str = "loglik",
    batch_size: int = 100,
    bits: Sequence[int] = (),
    group: int = 32,
    others: Sequence[str] = (),
    workers: int = 1,
    each: Each[Profile] | None = None,
) -> None:
    """Write the profile of a model: its reward with each site alone cut by each of `shares`.

    At `bits` a weight too, where any are named; then those of the `others` that the model has are
    measured likewise, without a cut. The layers are measured in `workers` processes; `each` calls
    them (flows put in their tasks).
    """
    check_file(out, (model_path, samples_path, scores_dir))
    if out.exists():
        Profile.load(out)  # else it is something else, and not replaced
    place = (model_path, samples_path, scores_dir, score, compensate, reward, batch_size)
    space, _ = made_for(scores_dir)
    layers = dict.fromkeys(space.layers)
    if bits:
        model = Stored(model_path)
        there = others_of(model.model, model.sites(space.scope))
        others = [name for name in others if name in there]
    quantizing = tuple(bits), group, tuple(others)
    work = partial(_profile_one, place, tuple(shares), quantizing)
    parts = (each or in_processes(workers, "profile", MODULES))(work, [(i,) for i in layers])
    table = pd.concat([part.table for part in parts], ignore_index=True)
    at_bits = None
    if bits:
        found = pd.concat([part.at_bits.table for part in parts if part.at_bits], ignore_index=True)
        at_bits = AtBits(found, quantizing[2], group)
    Profile(space, table, parts[0].fingerprint, at_bits).save(out)


def _profile_one(
    place: tuple[Any, ...],
    shares: tuple[float, ...],
    quantizing: tuple[tuple[int, ...], int, tuple[str, ...]],
    layer: int,
) -> Profile:
    """The rows of a layer's sites; of the others with those of the first."""
    space, _ = made_for(place[2])
    bits, group, others = quantizing
    with reward_of(*place) as reward:
        found = measure(reward, space, shares, layers=[layer])
        if not bits:
            return found
        alone = others if layer == space.layers[0] else ()
        table = measure_bits(reward, space, bits, group, shares, [layer], alone)
        return replace(found, at_bits=AtBits(table, others, group))


def search(
    out: Path,
    model_path: str,
    samples_path: Path,
    scores_dir: Path,
    score: str,
    targets: Sequence[float],
    seeds: Sequence[int],
    settings: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    start: str = "uniform",
    profile_path: Path | None = None,
    compensate: bool | str = False,
    reward: str = "loglik",
    batch_size: int = 100,
    parts: int = PARTS,
    hold_out: float = HOLD_OUT,
    spacing: float = 0,
    workers: int = 1,
    each: Each[Any] | None = None,
) -> list[Path]:
    """Write one shard of search samples a (searcher, target, seed); finished shards are kept.

    Then what was found is judged at the other targets, and at budgets between them that are at most
    `spacing` apart (`lop.search.carried`; 0 for none of this), a shard a budget.

    Searches `start` from the `uniform` plan or from the `knapsack`'s, which needs a profile.
    The samples are dealt to `parts`, of which a search does not see a share `hold_out`: those check
    its best plans. `settings` go to `lop.search.search`; a list of them, one a searcher, makes that
    many searches. They run in `workers` processes, or wherever `each` calls them (flows put in
    their tasks here): what it calls can be pickled, and needs the files named here and nothing
    else.
    """
    place = (model_path, samples_path, scores_dir, score, compensate, reward, batch_size, parts)
    # the space stands in the scores: with several workers, only those need the model
    check_directory(out)
    space, _ = made_for(scores_dir)
    for target in targets:
        space.check_ratio(target)
    if profile := beginning(start, profile_path):
        profile.check_fits(space)
    chosen = by_searcher(settings)
    work = partial(_search_one, place, out, profile, space, chosen, hold_out)
    each = each or in_processes(workers, "searches", MODULES)
    shards = list(each(work, product(chosen, targets, seeds)))
    if spacing:
        found = differences(read_shards(shards))
        asked = [(CARRIED, target, seeds[0]) for target in budgets(targets, spacing)]
        carry = partial(_carry_one, place, out, profile, space, found, hold_out)
        shards += [shard for shard in each(carry, asked) if shard]
    write_index(out, shards)
    return shards


def _search_one(
    place: tuple[Any, ...],
    out: Path,
    profile: Profile | None,
    space: Space,
    settings: Mapping[str, Mapping[str, Any]],
    hold_out: float,
    searcher: str,
    target: float,
    seed: int,
) -> Path:
    with reward_of(*place) as reward:
        if profile and profile.fingerprint != reward.fingerprint:
            raise LopError(
                f"profile of reward {profile.fingerprint}, the search's is {reward.fingerprint}: "
                "measure it with the same model, scores, samples and settings"
            )
        root = _root(profile, space, target)
        return run_shard(
            out, reward, target, seed, root=root, hold_out=hold_out, **settings[searcher]
        )


def _carry_one(
    place: tuple[Any, ...],
    out: Path,
    profile: Profile | None,
    space: Space,
    found: Mapping[float, np.ndarray],
    hold_out: float,
    searcher: str,
    target: float,
    seed: int,
) -> Path | None:
    """The shard of plans from elsewhere at one budget; None where there are none."""
    root = _root(profile, space, target)
    plans = [plan.kept for plan in carried_plans(root, target, found)]
    if not plans:
        return None
    settings = {searcher: {"searcher": searcher, "simulations": len(plans) + 1, "plans": plans}}
    return _search_one(place, out, profile, space, settings, hold_out, searcher, target, seed)


def _root(profile: Profile | None, space: Space, target: float) -> Plan:
    """The plan that a search starts from."""
    return solve(profile, target) if profile else Plan.uniform(space, target)


def reward_of(
    model_path: str,
    samples_path: Path,
    scores_dir: Path,
    score: str,
    compensate: bool | str,
    kind: str,
    batch_size: int,
    parts: int = 1,
) -> Reward:
    """The reward of a search; each thread makes it once, as it reorders its model's units.

    Of samples with fewer pictures than `parts`, each picture is a part.

    Raises LopError when there is no such score, or `auto` is open.
    """
    by = chosen(scores_dir, score, compensate)
    made = (model_path, samples_path, scores_dir, *by, kind, batch_size, parts)
    return _reward(*made, _states(Path(model_path), samples_path, scores_dir))


def _states(*places: Path) -> tuple[tuple[str, int], ...]:
    """When each file there was written: a process that goes on may see others at the same place."""
    files = [file for place in places for file in (place, *place.glob("*")) if file.exists()]
    return tuple((str(file), file.stat().st_mtime_ns) for file in files)


@once_a_thread
def _reward(
    model_path: str,
    samples_path: Path,
    scores_dir: Path,
    score: str,
    compensate: bool,
    kind: str,
    batch_size: int,
    parts: int,
    states: tuple[tuple[str, int], ...],
) -> Reward:
    model, processor = load_spread(model_path), load_processor(model_path)
    scores = load_all_scores(scores_dir, Stored(model_path).fingerprint)
    means = scores["mean_activation"] if compensate else None
    samples = read_samples(samples_path)
    parts = min(parts, samples["image_id"].nunique())
    scope = made_for(scores_dir)[0].scope
    made = (samples, scores[score], kind, batch_size, means, parts, scope)
    return Reward(model, processor, *made)
