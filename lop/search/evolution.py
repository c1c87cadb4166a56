"""A plain evolutionary search: the baseline for tree search at the same number of evaluations."""

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
    """Steady state: one child at a time; the best `population` plans survive.

    A parent is the better of two drawn at random. With probability `crossover`, each layer comes
    from a second parent with probability one half. Then a move changes the child, by a step that
    shrinks geometrically from `step` to `step_end` over the search.
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
