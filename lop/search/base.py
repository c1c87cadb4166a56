"""What every searcher is: a function that evaluates plans one after another.

    searcher(reward, root, simulations, rng, min_keep=..., **settings) -> iterator of Evaluated

`root` is the plan to start from; it meets the target budget, as all plans of the search do.
`reward` is a `lop.search.drawn.Drawn`; all but the surrogate do with any function of a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lop.plan import Plan, min_kept

RewardOf = Callable[[Plan], float]
Searcher = Callable[..., Iterator["Evaluated"]]


@dataclass(frozen=True)
class Evaluated:
    """A plan and its reward, and where in the search it was met.

    `share` is the share of the samples that the search sees by which it was judged.
    """

    plan: Plan
    reward: float
    simulation: int
    depth: int
    share: float = 1.0


def shake(plan: Plan, delta: float, rng: np.random.Generator, min_keep: float) -> Plan:
    """Move every layer's ratio by U(−delta, delta) and put the plan back on its budget."""
    ratios = np.array(plan.ratios) + rng.uniform(-delta, delta, len(plan.kept))
    return Plan.from_ratios(ratios, plan.widths, plan.ratio, min_keep)


def transfer(plan: Plan, delta: float, rng: np.random.Generator, min_keep: float) -> Plan:
    """Move neurons from one layer to another: 1 to `delta` of the giver's width, budget kept."""
    kept, low = np.array(plan.kept), min_kept(plan.widths, min_keep)
    giver, taker = rng.permutation(len(kept))[:2]
    room = min(kept[giver] - low[giver], plan.widths[taker] - kept[taker])
    most = min(room, max(1, round(delta * plan.widths[giver])))
    if most < 1:
        return plan
    moved = int(rng.integers(1, most + 1))
    kept[giver] -= moved
    kept[taker] += moved
    return Plan(plan.widths, tuple(int(k) for k in kept))


def mixed(plan: Plan, delta: float, rng: np.random.Generator, min_keep: float) -> Plan:
    """`shake` or `transfer`, by the toss of a coin."""
    move = shake if rng.random() < 0.5 else transfer
    return move(plan, delta, rng, min_keep)


MOVES = {move.__name__: move for move in (shake, transfer, mixed)}


def new_plan(draw: Callable[[], Plan], seen: set[tuple[int, ...]], tries: int = 20) -> Plan:
    """A plan that was not met before, where `tries` draws find one; it counts as met from now on.

    Two ways to the same plan would spend a simulation on what is known.
    """
    plan = draw()
    for _ in range(tries):
        if plan.kept not in seen:
            break
        plan = draw()
    seen.add(plan.kept)
    return plan
