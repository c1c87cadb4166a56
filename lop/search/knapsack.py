"""The knapsack's plan as a searcher: the baseline with a profile and without any search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lop.plan import Plan
from lop.profile import SHARES, measure, solve_budget
from lop.search.base import Evaluated, RewardOf


def knapsack(
    reward: RewardOf, root: Plan, simulations: int, rng: Any, shares: Sequence[float] = SHARES
) -> Iterator[Evaluated]:
    """The solved plan at the root's budget; its simulation number is the evaluations of the
    profile.

    `reward` caches plans, so a second target needs no second profile.
    """
    measured = measure(reward, root.space, shares)
    plan = solve_budget(measured, root.budget, root.space)
    cost = len(measured.table) - len(root.kept) + 1  # the dense model was evaluated once
    yield Evaluated(plan, reward(plan), simulation=cost, depth=0)
