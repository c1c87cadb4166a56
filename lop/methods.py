"""The pruning methods that are compared: lop and its baselines.

A method is a score, a rule from a ratio to a plan, and whether lost output is compensated. All
methods use the same calibration samples, budget and pruning code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lop.errors import LopError
from lop.importance import check_ranks
from lop.plan import RECOVERED, Plan, Space
from lop.predictor import Predictor
from lop.profile import Profile, solve
from lop.search.base import shake

Scores = Mapping[str, Sequence[Tensor]]
PlanRule = Callable[[float, Space, Scores], Plan]

RANDOM_STEP = 0.3


@dataclass(frozen=True)
class Method:
    """How a method prunes a model."""

    score: str  # that ranks units
    plan: PlanRule
    compensate: bool = False  # whether output maps get a bias that restores the lost mean output
    recovered: bool = False  # whether it cuts the recovered weights


def uniform_plan(ratio: float, space: Space, scores: Scores) -> Plan:
    """Every site loses the same share, evened so that a model with one FFN width keeps one."""
    return Plan.uniform(space, ratio).evened()


def flap_plan(ratio: float, space: Space, scores: Scores) -> Plan:
    """One global threshold over scores standardised in each site (FLAP's adaptive structure).

    The units with the highest scores are kept, up to the budget of parameters. So a head counts as
    much as the neurons of the same cost.
    """
    site = torch.repeat_interleave(torch.tensor(space.units))
    standard = torch.cat(list(scores["flap_standard"]))
    top = site[torch.argsort(standard, descending=True, stable=True)]
    within = torch.tensor(space.costs)[top].cumsum(0) <= space.budget(ratio)
    kept = torch.bincount(top[within], minlength=len(space.units))
    ratios = [1 - k / d for k, d in zip(kept.tolist(), space.units, strict=True)]
    return Plan.from_ratios(ratios, space, ratio)


def random_plan(ratio: float, space: Space, scores: Scores) -> Plan:
    """The uniform plan with ratios changed by up to ±`RANDOM_STEP`, seeded by the ratio."""
    rng = np.random.default_rng(round(ratio * 1_000_000))
    return shake(Plan.uniform(space, ratio), RANDOM_STEP, rng)


@dataclass(frozen=True)
class PlanInputs:
    """The inputs of plans: score and compensation of lop's own methods, predictor and profile."""

    score: str
    compensate: bool = False
    predictor: Predictor | None = None
    profile: Profile | None = None


def _learned(inputs: PlanInputs) -> PlanRule:
    if inputs.predictor is None:
        raise LopError("method 'lop' needs a predictor")
    predictor = inputs.predictor
    return lambda ratio, space, scores: predictor.plan(ratio, space)


def _solved(inputs: PlanInputs) -> PlanRule:
    if inputs.profile is None:
        raise LopError("method 'knapsack' needs a profile")
    profile = inputs.profile

    def rule(ratio: float, space: Space, scores: Scores) -> Plan:
        profile.check_fits(space)
        return solve(profile, ratio, space)

    return rule


# These methods share score and compensation; only their plans differ.
OURS: Mapping[str, Callable[[PlanInputs], PlanRule]] = {
    "lop": _learned,
    "knapsack": _solved,
    "uniform": lambda inputs: uniform_plan,
    "random": lambda inputs: random_plan,
}
BASELINES: Mapping[str, Method] = {
    "magnitude": Method("magnitude", uniform_plan),
    "wanda_sp": Method("wanda_sp", uniform_plan),
    "flap": Method("flap", flap_plan, compensate=True),
}
# lop's own methods, with plans cut from recovered weights, which were trained at such plans
TRAINED = frozenset(f"{name}{RECOVERED}" for name in ("lop", "knapsack", "uniform"))
NAMES = (*OURS, *BASELINES, *sorted(TRAINED))


def plans_of(name: str) -> str:
    """The name of the method whose plans method `name` uses, without the suffix for recovery."""
    return name.removesuffix(RECOVERED) if name in TRAINED else name


def method(name: str, inputs: PlanInputs) -> Method:
    """The method called `name`; LopError if it is unknown, or an input that it needs is missing."""
    if name in TRAINED:  # no compensation: recovery trained the weights for the missing units
        return replace(method(plans_of(name), inputs), compensate=False, recovered=True)
    if name in OURS:
        check_ranks(inputs.score)
        return Method(inputs.score, OURS[name](inputs), inputs.compensate)
    if name not in BASELINES:
        raise LopError(f"method {name!r}: expected one of {', '.join(NAMES)}")
    return BASELINES[name]
