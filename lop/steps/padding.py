"""What the padded format saves of a plan, and what bounding its widest FFN would save and cost."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from lop.errors import LopError
from lop.models.costs import parameters
from lop.plan import Plan
from lop.pruning import filled
from lop.steps.pruning import Cutter

BOUNDS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # of the widest FFN, that padding is shown for


@dataclass(frozen=True)
class Padded:
    """What the padded format makes of a plan: `stored` parameters of `dense`, where `kept` would
    do. `loss` is the reward that bounding the widest FFN costs more, by the profile if there is
    one."""

    widest: float  # share of its neurons that an FFN keeps at most
    dense: int
    kept: int
    stored: int
    loss: float | None

    @property
    def saves(self) -> float:
        """Share of the whole model."""
        return 1 - self.stored / self.dense


def padded_offers(cutter: Cutter, name: str, ratio: float) -> list[Padded]:
    """What padding stores at a ratio, first as asked for, then with the widest FFN bounded.

    At a plan whose sites differ in size it saves little: the less they may differ the more, at a
    cost in quality.
    """
    asked = cutter.planner(name)(ratio)
    share = _widest(asked)
    cost, plans = parameters(cutter.source, cutter.space), {share: asked}
    for bound in (bound for bound in BOUNDS if bound < share):
        with suppress(LopError):  # a bound at which the budget cannot be met, or below the floor
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
