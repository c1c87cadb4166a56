"""The two searchers that learn nothing: plans drawn at random, and the uniform plan alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lop.plan import MIN_KEEP, Plan
from lop.search.base import Evaluated, RewardOf, new_plan, shake


def random(
    reward: RewardOf,
    root: Plan,
    simulations: int,
    rng: np.random.Generator,
    step: float = 0.5,
    min_keep: float = MIN_KEEP,
) -> Iterator[Evaluated]:
    """The root, then independent plans around it: each shaken by its own U(0, `step`)."""
    seen: set[tuple[int, ...]] = set()
    for simulation in range(simulations):
        if simulation == 0:
            plan = new_plan(lambda: root, seen)
        else:
            plan = new_plan(lambda: shake(root, rng.uniform(0, step), rng, min_keep), seen)
        yield Evaluated(plan, reward(plan), simulation, depth=min(simulation, 1))


def uniform(
    reward: RewardOf, root: Plan, simulations: int, rng: Any, min_keep: float = MIN_KEEP
) -> Iterator[Evaluated]:
    """The uniform plan at the root's budget: what one has without any search."""
    plan = Plan.uniform(root.widths, root.ratio, min_keep)
    yield Evaluated(plan, reward(plan), simulation=0, depth=0)
