"""A plain evolutionary search: the rival that a tree has to beat at equal evaluations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lop.plan import Plan
from lop.search.base import MOVES, Evaluated, RewardOf, new_plan


def evolution(
    reward: RewardOf,
    root: Plan,
    simulations: int,
    rng: np.random.Generator,
    population: int = 16,
    crossover: float = 0.3,
    step: float = 0.3,
    step_end: float = 0.05,
    move: str = "mixed",
) -> Iterator[Evaluated]:
    """Steady state: one child at a time, and the best `population` plans live on.

    A parent is the better of two drawn at random. With chance `crossover` a second one gives each
    of its layers with chance one half; then the child is moved by a step that shrinks
    geometrically from `step` to `step_end` over the search.
    """
    alive: list[Evaluated] = []
    seen: set[tuple[int, ...]] = set()

    def parent() -> Plan:
        pair = rng.integers(len(alive), size=2)
        return alive[min(pair)].plan  # `alive` is in order of reward

    def child(delta: float) -> Plan:
        plan = parent()
        if rng.random() < crossover:
            mask = rng.random(len(plan.kept)) < 0.5
            plan = root.nearest(np.where(mask, plan.ratios, parent().ratios))
        return MOVES[move](plan, delta, rng)

    for simulation in range(simulations):
        delta = step * (step_end / step) ** (simulation / simulations)
        if simulation == 0:
            plan = new_plan(lambda: root, seen)
        elif simulation < population:
            plan = new_plan(lambda: MOVES["shake"](root, step, rng), seen)
        else:
            plan = new_plan(lambda d=delta: child(d), seen)  # type: ignore[misc]
        depth = min(simulation, max(1, simulation // population))  # the generation
        alive.append(Evaluated(plan, reward(plan), simulation, depth))
        yield alive[-1]
        alive.sort(key=lambda e: -e.reward)
        del alive[population:]
