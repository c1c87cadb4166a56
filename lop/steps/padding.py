"""What the padded format saves for a plan, and what a bound on the widest FFN saves and costs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from lop.errors import LopError
from lop.models.costs import parameters
from lop.plan import Plan
from lop.pruning import filled
from lop.steps.pruning import Cutter

BOUNDS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # bounds of the widest FFN that `padded_offers` tries


@dataclass(frozen=True)
class Padded:
    """Parameter counts of a plan in the padded format."""

    widest: float  # largest share of its neurons that an FFN keeps
    dense: int  # parameters of the dense model
    kept: int  # parameters that the plan keeps
    stored: int  # parameters in the padded checkpoint, with its zeros
    loss: float | None  # reward that the bound costs, by the profile; None without a profile

    @property
    def saves(self) -> float:
        """The share of the dense model's parameters that is not stored."""
        return 1 - self.stored / self.dense


def padded_offers(cutter: Cutter, name: str, ratio: float) -> list[Padded]:
    """The padded sizes of a method's plan at a ratio: first unbounded, then with bounded FFNs.

    Padding saves little if the sites of a plan differ much in size. A bound on the widest FFN makes
    the sites more alike: padding then saves more, at a cost in quality.
    """
    asked = cutter.planner(name)(ratio)
    share = _widest(asked)
    cost, plans = parameters(cutter.source, cutter.space), {share: asked}
    for bound in (bound for bound in BOUNDS if bound < share):
        with suppress(LopError):  # the bound is below a floor, or the plan cannot meet the budget
            plans[bound] = cutter.planner(name, cutter.space.bounded(bound))(ratio)
    profile, found = cutter.profile, []
    for bound, plan in plans.items():
        loss = profile.predicted(plan) - profile.predicted(asked) if profile else None
        sizes = cost.dense, cost.of(plan), cost.of_units(filled(plan))
        found.append(Padded(bound, *sizes, loss))
    return found


def _widest(plan: Plan) -> float:
    each = zip(plan.kept, plan.space.units, plan.space.kinds, strict=True)
    return max(k / d for k, d, kind in each if kind == "ffn")
