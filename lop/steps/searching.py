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
MODULES = ["lop.steps.searching"]  # imported by search processes


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
    """Write the profile of a model: its reward with a single site cut, by each of `shares`.

    With `bits`, each site is also measured at these numbers of bits, and so are those of `others`
    that the model has, without a cut. The layers are measured in `workers` processes, or as `each`
    runs them (flows pass their tasks).
    """
    check_file(out, (model_path, samples_path, scores_dir))
    if out.exists():
        Profile.load(out)  # LopError: do not replace a file that is not a profile
    inputs = (model_path, samples_path, scores_dir, score, compensate, reward, batch_size)
    space, _ = made_for(scores_dir)
    layers = dict.fromkeys(space.layers)
    if bits:
        model = Stored(model_path)
        known = others_of(model.model, model.sites(space.scope))
        others = [name for name in others if name in known]
    quantizing = tuple(bits), group, tuple(others)
    work = partial(_profile_one, inputs, tuple(shares), quantizing)
    parts = (each or in_processes(workers, "profile", MODULES))(work, [(i,) for i in layers])
    table = pd.concat([part.table for part in parts], ignore_index=True)
    at_bits = None
    if bits:
        found = pd.concat([part.at_bits.table for part in parts if part.at_bits], ignore_index=True)
        at_bits = AtBits(found, quantizing[2], group)
    Profile(space, table, parts[0].fingerprint, at_bits).save(out)


def _profile_one(
    inputs: tuple[Any, ...],
    shares: tuple[float, ...],
    quantizing: tuple[tuple[int, ...], int, tuple[str, ...]],
    layer: int,
) -> Profile:
    """The profile's rows for one layer; the first layer's include those of the other weights."""
    space, _ = made_for(inputs[2])
    bits, group, others = quantizing
    with reward_of(*inputs) as reward:
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
    """Write one shard of search samples for each searcher, target and seed; finished shards stay.

    Then the best plans are carried to the other targets, and to budgets between them at most
    `spacing` apart, with one shard for each budget (`lop.search.carried`; 0 turns this off).

    `start` names the plan from which searches start: `uniform`, or `knapsack`, which needs a
    profile. The samples are divided into `parts`. A search does not see a share `hold_out` of the
    parts; its best plans are checked on them. `settings` are those of `lop.search.search`; with a
    list of settings, one for each searcher, each searcher searches. Searches run in `workers`
    processes, or as `each` runs them (flows pass their tasks): the function that `each` gets can be
    pickled and needs no files except the inputs of this function.
    """
    inputs = (model_path, samples_path, scores_dir, score, compensate, reward, batch_size, parts)
    # read the space from the scores: with several workers, this process needs no model
    check_directory(out)
    space, _ = made_for(scores_dir)
    for target in targets:
        space.check_ratio(target)
    if profile := beginning(start, profile_path):
        profile.check_fits(space)
    chosen = by_searcher(settings)
    work = partial(_search_one, inputs, out, profile, space, chosen, hold_out)
    each = each or in_processes(workers, "searches", MODULES)
    shards = list(each(work, product(chosen, targets, seeds)))
    if spacing:
        found = differences(read_shards(shards))
        asked = [(CARRIED, target, seeds[0]) for target in budgets(targets, spacing)]
        carry = partial(_carry_one, inputs, out, profile, space, found, hold_out)
        shards += [shard for shard in each(carry, asked) if shard]
    write_index(out, shards)
    return shards


def _search_one(
    inputs: tuple[Any, ...],
    out: Path,
    profile: Profile | None,
    space: Space,
    settings: Mapping[str, Mapping[str, Any]],
    hold_out: float,
    searcher: str,
    target: float,
    seed: int,
) -> Path:
    with reward_of(*inputs) as reward:
        if profile:
            check_measured(profile, reward)
        root = _root(profile, space, target)
        return run_shard(
            out, reward, target, seed, root=root, hold_out=hold_out, **settings[searcher]
        )


def check_measured(profile: Profile, reward: Reward) -> None:
    """Raise LopError unless the profile was measured with this reward."""
    if profile.fingerprint != reward.fingerprint:
        raise LopError(
            f"profile of reward {profile.fingerprint}, the search's is {reward.fingerprint}: "
            "measure it with the same model, scores, samples and settings"
        )


def _carry_one(
    inputs: tuple[Any, ...],
    out: Path,
    profile: Profile | None,
    space: Space,
    found: Mapping[float, np.ndarray],
    hold_out: float,
    searcher: str,
    target: float,
    seed: int,
) -> Path | None:
    """The shard of the plans carried to one budget; None if there are none."""
    root = _root(profile, space, target)
    plans = [plan.kept for plan in carried_plans(root, target, found)]
    if not plans:
        return None
    settings = {searcher: {"searcher": searcher, "simulations": len(plans) + 1, "plans": plans}}
    return _search_one(inputs, out, profile, space, settings, hold_out, searcher, target, seed)


def _root(profile: Profile | None, space: Space, target: float) -> Plan:
    """The plan from which a search starts."""
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
    """The reward of a search. Each thread makes its own once, because a reward reorders the units
    of its model.

    If the samples have fewer pictures than `parts`, each picture is a part.

    Raises LopError if there is no such score, or `auto` is not decided yet.
    """
    by = chosen(scores_dir, score, compensate)
    made = (model_path, samples_path, scores_dir, *by, kind, batch_size, parts)
    return _reward(*made, _states(Path(model_path), samples_path, scores_dir))


def _states(*paths: Path) -> tuple[tuple[str, int], ...]:
    """The modification time of each file: it changes if a file is replaced while this process
    runs."""
    files = [file for path in paths for file in (path, *path.glob("*")) if file.exists()]
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
