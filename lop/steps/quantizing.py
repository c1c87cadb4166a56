"""The step to plans of units and bits for any size: searches, and the predictor of their plans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lop.errors import LopError
from lop.files import check_dir, content_digest, replacing
from lop.importance import made_for
from lop.joint import VERSION, Choices, search
from lop.models.fingerprints import digest
from lop.models.sizes import Sizes
from lop.models.stored import Stored
from lop.plan import Plan
from lop.predictor.sizes import SIZE_PREDICTOR, SizeConfig, train
from lop.predictor.training import good_samples
from lop.profile import Profile
from lop.progress import progress
from lop.reward import Reward
from lop.reward.choice import chosen
from lop.search.drawn import HOLD_OUT, Drawn, held_out
from lop.settings import Learned
from lop.steps.searching import PARTS, check_measured, reward_of

SIZES = (0.7, 0.5, 0.4, 0.33, 0.25, 0.2)  # shares of the dense model's bytes that are searched


def size_predictor(
    out: Path,
    searches: Path,
    model_path: str,
    samples_path: Path,
    scores_dir: Path,
    score: str,
    profile_path: Path,
    bits: Sequence[int],
    group: int,
    simulations: int,
    seed: int = 0,
    compensate: bool | str = False,
    reward: str = "loglik",
    batch_size: int = 100,
) -> dict[float, float]:
    """Write a predictor of units and bits, of one search for each of `SIZES` within reach.

    A search goes on from the knapsack's plan; its samples are a file in `searches`, and a finished
    one is kept. Some of the reward samples are held out of all searches: they say how much better
    what was found is. Returns that gain by size; 0 where nothing was surely better.

    Raises LopError for a profile that was not measured at these bits, or by another reward.
    """
    check_dir(out, SIZE_PREDICTOR, (model_path, samples_path, scores_dir, profile_path))
    profile, source = Profile.load(profile_path), Stored(model_path)
    space, model = made_for(scores_dir)
    compensated = chosen(scores_dir, score, compensate).compensate
    choices = Choices(profile, Sizes(source, space, group, compensated), bits, space)
    dense = choices.sizes.of(space.dense)
    sizes = [size for size in SIZES if size * dense >= choices.reach[0]]
    if not sizes:
        raise LopError(f"bits {list(bits)}: no size of {max(SIZES):.0%} or less is within reach")
    place = (model_path, samples_path, scores_dir, score, compensate, reward, batch_size, PARTS)
    with reward_of(*place) as judge:
        check_measured(profile, judge)
        of = (choices.bits, group, choices.others, simulations, seed)
        key = digest(judge.fingerprint, content_digest(profile_path), of, VERSION)
        found = [
            _searched(searches / f"size-{size:g}-{key}.parquet", judge, choices, size, of[-2:])
            for size in progress(sizes, "sizes", unit="size")
        ]
    good = good_samples(pd.concat(found, ignore_index=True), Learned().sure)
    config = SizeConfig(space, model, choices.bits, group, tuple(choices.others), min(sizes))
    train(good, config, seed).save_pretrained(out)
    return {1 - row["target"]: row["gain"] for row in good.to_dict("records")}


def _searched(
    path: Path, reward: Reward, choices: Choices, size: float, how: tuple[int, int]
) -> pd.DataFrame:
    """The knapsack's plan at one size and the best that is found, kept in a file.

    Columns: target, plan (how far from the knapsack's), kept (the same, as `good_samples` has it),
    gain, gain_error, simulation.
    """
    if path.exists():
        return pd.read_parquet(path)
    simulations, seed = how
    seen, held = held_out(len(reward.parts), HOLD_OUT)
    amount = size * choices.sizes.of(choices.space.dense)
    rng = np.random.default_rng([seed, round(size * 1_000_000)])
    (root, _), *better = search(Drawn(reward, seen), choices, amount, simulations, rng)
    best = better[-1][0] if better else root
    rows = [_row(choices, 1 - size, root, root, (0.0, 0.0), 0)]
    if best != root:
        gap = Drawn(reward, held).gap(best, root)
        rows.append(_row(choices, 1 - size, root, best, gap, 1))
    table = pd.DataFrame(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as tmp:
        table.to_parquet(tmp)
    return table


def _row(
    choices: Choices, target: float, root: Plan, plan: Plan, gap: tuple[float, float], number: int
) -> dict[str, Any]:
    moved = (choices.removed(plan) - choices.removed(root)).tolist()
    gain = dict(zip(("gain", "gain_error"), gap, strict=True))
    return {"target": target, "plan": moved, "kept": moved, **gain, "simulation": number}
