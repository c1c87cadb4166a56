"""The interface of a searcher: a function that evaluates plans one after another.

    searcher(reward, root, simulations, rng, **settings) -> iterator of Evaluated

`root` is the plan to start from; all plans of the search meet its budget. `reward` is a
`lop.search.drawn.Drawn`; all searchers except the surrogate accept any function of a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lop.plan import Plan

RewardOf = Callable[[Plan], float]
Searcher = Callable[..., Iterator["Evaluated"]]


@dataclass(frozen=True)
class Evaluated:
    """A plan, its reward, and its simulation and depth in the search.

    `share` is the share of the search's samples that it was evaluated on.
    """

    plan: Plan
    reward: float
    simulation: int
    depth: int
    share: float = 1.0


def shake(plan: Plan, delta: float, rng: np.random.Generator) -> Plan:
    """Change every site's ratio by U(−delta, delta), then adjust the plan to its budget."""
    return plan.nearest(np.array(plan.ratios) + rng.uniform(-delta, delta, len(plan.kept)))


def transfer(plan: Plan, delta: float, rng: np.random.Generator) -> Plan:
    """Move units from one site to another, from 1 unit to a share `delta` of the giver's; the
    budget does not change."""
    space, kept = plan.space, np.array(plan.kept)
    giver, taker = rng.permutation(len(kept))[:2]
    price = space.costs[giver] / space.costs[taker]  # units that the taker gets for one unit
    room = min(kept[giver] - space.floors[giver], (space.units[taker] - kept[taker]) / price)
    most = min(int(room), max(1, round(delta * space.units[giver])))
    if most < 1:
        return plan
    moved = int(rng.integers(1, most + 1))
    if price == 1 and space.multiple == 1:
        kept[giver] -= moved
        kept[taker] += moved
        return Plan(space, tuple(int(k) for k in kept))
    ratios = np.array(plan.ratios)
    ratios[giver] += moved / space.units[giver]
    ratios[taker] -= moved * price / space.units[taker]
    return plan.nearest(ratios)


def mixed(plan: Plan, delta: float, rng: np.random.Generator) -> Plan:
    """`shake` or `transfer`, each with probability one half."""
    move = shake if rng.random() < 0.5 else transfer
    return move(plan, delta, rng)


MOVES = {move.__name__: move for move in (shake, transfer, mixed)}


def new_plan(draw: Callable[[], Plan], seen: set[tuple[int, ...]], tries: int = 20) -> Plan:
    """A plan that is not in `seen`, if `tries` draws find one; it is added to `seen`.

    Evaluating the same plan twice would waste a simulation.
    """
    plan = draw()
    for _ in range(tries):
        if plan.kept not in seen:
            break
        plan = draw()
    seen.add(plan.kept)
    return plan
