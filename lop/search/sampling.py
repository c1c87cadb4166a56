"""Two baselines without learning: random plans, and the uniform plan alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lop.plan import Plan
from lop.search.base import Evaluated, RewardOf, new_plan, shake


def random(
    reward: RewardOf,
    root: Plan,
    simulations: int,
    rng: np.random.Generator,
    step: float = 0.5,
) -> Iterator[Evaluated]:
    """The root, then independent plans around it: each is shaken by a step drawn from U(0,
    `step`)."""
    seen: set[tuple[int, ...]] = set()
    for simulation in range(simulations):
        if simulation == 0:
            plan = new_plan(lambda: root, seen)
        else:
            plan = new_plan(lambda: shake(root, rng.uniform(0, step), rng), seen)
        yield Evaluated(plan, reward(plan), simulation, depth=min(simulation, 1))


def uniform(reward: RewardOf, root: Plan, simulations: int, rng: Any) -> Iterator[Evaluated]:
    """The uniform plan at the root's budget: the baseline without any search."""
    plan = root.nearest([root.ratio] * len(root.kept))
    yield Evaluated(plan, reward(plan), simulation=0, depth=0)
