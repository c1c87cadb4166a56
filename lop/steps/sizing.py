"""How many samples and plans to learn from: by what one evaluation takes, and the time there is.

All that learning costs is counted in passes of one sample through the whole decoder. So one
evaluation that is timed tells what a size would take, before hours are spent.
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
MOST = 2000  # samples of a kind: more tell little more
ENOUGH = (500, 200, 60)  # reward samples that are worth more than a longer search, if they can be
USUAL = 500  # samples of a kind, and …
USUAL_EFFORT = 2  # … which effort, where there is no limit
SAFETY = 0.8  # of the time is planned; the rest is for a machine that is busy at times
TRAIN = Prepare().train or 0  # samples that are left for recovery, at most
# seconds, whatever the model's size, that samples take to be drawn, and the predictor to be trained
READING, TRAINING = 10.0, 30.0
CARRIED_PLANS = 5  # a budget


@dataclass(frozen=True)
class Effort:
    """How much is searched: plans a search, the widest gap between budgets at which what was found
    is judged (0: none of this), and shares that each site is cut by alone."""

    simulations: int
    spacing: float
    shares: tuple[float, ...]


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
    """What was timed: seconds to read a sample in, to pass it through the decoder, and to answer
    the latency profile's request; and how many sites may be cut."""

    reading: float
    passing: float
    request: float
    sites: int


@dataclass(frozen=True)
class Sizes:
    """Samples of each kind, what is searched, and the seconds that each step should take.

    The plans are measured on so many `measured` samples of those that no other kind has; `train`
    are left for recovery.
    """

    calibration: int
    reward: int
    measured: int
    train: int | None
    effort: Effort
    seconds: dict[str, float]
    simulation: float  # seconds that one more plan a search takes, of all searches


def timed(
    model_path: str,
    samples: pd.DataFrame,
    kind: str = "loglik",
    scope: str = "ffn",
    ffn_floor: float = FLOORS["ffn"],
    attention_floor: float = FLOORS["attention"],
    multiple_of: int = 1,
) -> Pace:
    """Time a nearly whole model on some of the samples, by a reward of this `kind`."""
    model, processor = load_spread(model_path), load_processor(model_path)
    floors: dict[Kind, float] = {"ffn": ffn_floor, "attention": attention_floor}
    found = find_space(model, scope, floors, multiple_of)
    tried = samples.sample(min(TRIED, len(samples)), random_state=0)
    request = Request()
    answer(model, request)  # the first is slower
    asked = float(answer(model, request).sum())
    order = [torch.arange(units, 0, -1.0) for units in found.units]
    begun = time.perf_counter()
    with Reward(model, processor, tried, order, kind, scope=scope) as reward:
        reward(found.dense)  # likewise; with a divergence it makes what is compared with
        read = time.perf_counter()
        reward(Plan.uniform(found, min(0.1, found.max_ratio)))
        passed = time.perf_counter() - read
    counts = len(tried)
    return Pace((read - begun) / counts, passed / counts, asked, len(found.units))


def sized(
    pace: Pace, available: int, hours: float | None = None, bits: Sequence[int] = ()
) -> Sizes:
    """The sizes for a number of samples and, if given, of hours; LopError for too few hours.

    With `bits`, units and bits are planned too.

    With a limit: as many reward samples as are worth more than a longer search, then the longest
    search, then the samples that the rest of the time is enough for.
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
    """Plans a search, after some steps that `took` seconds: as planned, or fewer where those were
    slower than expected and the time would not be enough."""
    planned = sizes.effort.simulations
    if hours is None:
        return planned
    expected = sum(sizes.seconds[name] for name in took)
    pace = max(1.0, sum(took.values()) / expected) if expected else 1.0
    later = sum(of for name, of in sizes.seconds.items() if name not in took)
    over = pace * later - (3600 * hours - sum(took.values()))
    fewer = planned - over / (pace * sizes.simulation)
    return max(EFFORTS[-1].simulations, min(planned, int(fewer)))


def _line(pace: Pace, available: int, effort: Effort, bits: Sequence[int]) -> tuple[float, float]:
    """Seconds of all steps as a line in the number of reward samples: at 0, and for each."""
    few, many = (
        sum(_sizes(pace, count, available, effort, bits).seconds.values()) for count in (0, 100)
    )
    return few, (many - few) / 100


def _sizes(pace: Pace, reward: int, available: int, effort: Effort, bits: Sequence[int]) -> Sizes:
    """The sizes that go with a number of reward samples, with seconds by step."""
    calibration = max(2, int(0.6 * reward))
    measured = max(2, min(2 * reward, int(0.3 * available)))  # cheap, and errors fall with it
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
