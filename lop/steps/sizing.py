"""How many samples and plans to learn from, given the time of one evaluation and a time limit.

The cost of learning is counted in passes of one sample through the whole decoder. So one timed
evaluation predicts how long learning takes, before it starts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from lop.errors import LopError
from lop.evaluation.latency import REPEATS, Request, answer
from lop.evaluation.latency import SHARES as LEVELS
from lop.models.checkpoint import load_processor, load_spread
from lop.models.space import find_space
from lop.plan import FLOORS, WHOLE, Kind, Plan
from lop.reward import Reward
from lop.reward.choice import CANDIDATES
from lop.search.carried import budgets
from lop.settings.params import Prepare, Search
from lop.steps.quantizing import SIZES

TRIED = 48  # samples of the timed evaluation
MOST = 2000  # reward samples at most: more improve results little
ENOUGH = (500, 200, 60)  # reward samples to have before a longer search: the first that fits
USUAL = 500  # reward samples without a time limit
USUAL_EFFORT = 2  # index in EFFORTS without a time limit
SAFETY = 0.8  # share of the time that is planned; the rest is a reserve for a busy machine
TRAIN = Prepare().train or 0  # samples reserved for recovery at most
# seconds to draw samples, and to train the predictor, for a model of any size
READING, TRAINING = 10.0, 30.0
CARRIED_PLANS = 5  # plans carried to each budget


@dataclass(frozen=True)
class Effort:
    """The effort of the searches and the profile."""

    simulations: int  # plans of each search
    spacing: float  # largest gap between budgets to which plans are carried; 0: none are carried
    shares: tuple[float, ...]  # cuts of each site that the profile measures


NINE = tuple(round(0.1 * i, 1) for i in range(1, 10))
FIVE = (0.1, 0.3, 0.5, 0.7, 0.9)
EFFORTS = (
    Effort(200, 0.05, NINE),
    Effort(100, 0.05, NINE),
    Effort(50, 0.05, NINE),
    Effort(25, 0.1, NINE),
    Effort(12, 0.2, FIVE),
    Effort(4, 0, FIVE),
)


@dataclass(frozen=True)
class Pace:
    """Measured seconds, and the number of sites that can be cut."""

    reading: float  # to prepare one sample
    passing: float  # to pass one sample through the decoder
    request: float  # to answer the latency profile's request
    sites: int


@dataclass(frozen=True)
class Sizes:
    """Numbers of samples, the effort, and the expected seconds of each step."""

    calibration: int
    reward: int
    measured: int  # to measure the plans; no other step uses these samples
    train: int | None  # reserved for recovery
    effort: Effort
    seconds: dict[str, float]
    simulation: float  # seconds for one more plan in every search


def timed(
    model_path: str,
    samples: pd.DataFrame,
    kind: str = "loglik",
    scope: str = "ffn",
    ffn_floor: float = FLOORS["ffn"],
    attention_floor: float = FLOORS["attention"],
    multiple_of: int = 1,
) -> Pace:
    """Time a slightly pruned model on some of the samples, with a reward of this `kind`."""
    model, processor = load_spread(model_path), load_processor(model_path)
    floors: dict[Kind, float] = {"ffn": ffn_floor, "attention": attention_floor}
    found = find_space(model, scope, floors, multiple_of)
    tried = samples.sample(min(TRIED, len(samples)), random_state=0)
    request = Request()
    answer(model, request)  # the first answer is slower
    asked = float(answer(model, request).sum())
    order = [torch.arange(units, 0, -1.0) for units in found.units]
    begun = time.perf_counter()
    with Reward(model, processor, tried, order, kind, scope=scope) as reward:
        reward(found.dense)  # likewise; for a divergence it computes the reference outputs
        read = time.perf_counter()
        reward(Plan.uniform(found, min(0.1, found.max_ratio)))
        passed = time.perf_counter() - read
    counts = len(tried)
    return Pace((read - begun) / counts, passed / counts, asked, len(found.units))


def sized(
    pace: Pace, available: int, hours: float | None = None, bits: Sequence[int] = ()
) -> Sizes:
    """The sizes for a number of samples and optionally of hours; LopError for too few hours.

    Within a limit, `ENOUGH` reward samples come first, then the longest search, then as many more
    samples as the remaining time allows. With `bits`, plans of units and bits are learned too.
    """
    room = int(0.3 * available)
    if hours is None:
        return _sizes(pace, min(USUAL, room), available, EFFORTS[USUAL_EFFORT], bits)
    limit = SAFETY * 3600 * hours
    for enough in dict.fromkeys(min(each, room) for each in ENOUGH):
        for effort in EFFORTS:
            fixed, each = _line(pace, available, effort, bits)
            affordable = int((limit - fixed) / each)
            if affordable >= enough:
                return _sizes(pace, min(affordable, room, MOST), available, effort, bits)
    few = _sizes(pace, min(ENOUGH[-1], room), available, EFFORTS[-1], bits)
    least = sum(few.seconds.values())
    raise LopError(
        f"--hours {hours:g}: too little for this model on this machine; expected at least "
        f"{least / SAFETY / 3600:.2g}"
    )


def affordable_simulations(sizes: Sizes, took: Mapping[str, float], hours: float | None) -> int:
    """The number of plans in each search after steps that `took` these seconds: as planned, or
    fewer if the steps were so slow that the planned number would exceed `hours`."""
    planned = sizes.effort.simulations
    if hours is None:
        return planned
    expected = sum(sizes.seconds[name] for name in took)
    pace = max(1.0, sum(took.values()) / expected) if expected else 1.0
    later = sum(seconds for name, seconds in sizes.seconds.items() if name not in took)
    over = pace * later - (3600 * hours - sum(took.values()))
    fewer = planned - over / (pace * sizes.simulation)
    return max(EFFORTS[-1].simulations, min(planned, int(fewer)))


def _line(pace: Pace, available: int, effort: Effort, bits: Sequence[int]) -> tuple[float, float]:
    """Seconds of all steps as a linear function of the number of reward samples: the value at 0,
    and the slope."""
    few, many = (
        sum(_sizes(pace, count, available, effort, bits).seconds.values()) for count in (0, 100)
    )
    return few, (many - few) / 100


def _sizes(pace: Pace, reward: int, available: int, effort: Effort, bits: Sequence[int]) -> Sizes:
    """The sizes for a number of reward samples, with seconds by step."""
    calibration = max(2, int(0.6 * reward))
    measured = max(2, min(2 * reward, int(0.3 * available)))  # cheap, and reduces errors
    read, once = pace.reading, pace.passing
    targets = Search().targets
    judged = len(budgets(targets, effort.spacing)) * CARRIED_PLANS if effort.spacing else 0
    plans = len(targets) * effort.simulations + judged
    sets = 1 + sum(n != WHOLE for n in bits)  # of measurements of each site
    seconds = {
        "samples": READING,
        "scores": calibration * (read + once) + reward * (read + 3 * len(CANDIDATES) * once),
        "latency": len(LEVELS) * (REPEATS + 1) * pace.request,
        "profile": reward * (read + sets * pace.sites * (len(effort.shares) + 1) * once / 2),
        "search": reward * (read + plans * once),
        "predictor": TRAINING,
        "units and bits": reward * (read + len(SIZES) * effort.simulations * once),
        "figures": measured * (read + 9 * once),
    }
    if not bits:
        del seconds["units and bits"]
    left = min(TRAIN, int(0.9 * available) - calibration - measured - reward)
    train = left if left >= 2 else None
    simulation = (len(targets) + (len(SIZES) if bits else 0)) * reward * once
    return Sizes(calibration, reward, measured, train, effort, seconds, simulation)
