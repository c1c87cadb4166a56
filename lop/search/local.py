"""Local search: measures each site's gain and loss around the current plan, repeatedly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lop.plan import Plan
from lop.search.base import Evaluated, RewardOf


def local(
    reward: RewardOf,
    root: Plan,
    simulations: int,
    rng: np.random.Generator,
    step: float = 0.1,
    step_min: float = 0.01,
) -> Iterator[Evaluated]:
    """Measure each site one step up and one step down; move units from the best givers to the best
    takers.

    A step is a share of a site's units. A round measures all sites around the current plan (two
    evaluations for each site), then tries the best exchange alone, the best two together, four, and
    so on. The best of these is the next plan; if none is better, the step is halved. The search
    ends after `simulations` evaluations, or when the step is below `step_min`.
    """
    current, best, used = root, reward(root), 1
    yield Evaluated(root, best, 0, 0)
    depth = 0
    while used < simulations and step >= step_min:
        worth = _worth(reward, current, best, step)
        used += 2 * len(root.kept)
        better = None
        for plan in _exchanges(current, *worth, step):
            if used >= simulations:
                break
            gained = reward(plan)
            yield Evaluated(plan, gained, used, depth + 1)
            used += 1
            if gained > best:
                better, best = plan, gained
        if better is None:
            step /= 2
        else:
            current, depth = better, depth + 1


def _worth(reward: RewardOf, plan: Plan, base: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    """By site: reward gained with one step more units, and lost with one step fewer; nan if
    impossible.

    Per FFN neuron, if sites differ in cost.
    """
    space, changes = plan.space, np.full((2, len(plan.kept)), np.nan)
    alike = len(set(space.costs)) == 1
    for site, (kept, units) in enumerate(zip(plan.kept, space.units, strict=True)):
        size = max(1, round(step * units))
        for row, other in enumerate(
            (min(units, kept + size), max(space.floors[site], kept - size))
        ):
            if other != kept:
                changed = (*plan.kept[:site], other, *plan.kept[site + 1 :])
                change = (reward(Plan(space, changed)) - base) / abs(other - kept) * size
                changes[row, site] = change if alike else change / (size * space.weights[site])
    return changes[0], -changes[1]


def _exchanges(plan: Plan, gains: np.ndarray, losses: np.ndarray, step: float) -> Iterator[Plan]:
    """Plans in which the 1, 2, 4 … best takers gain one step, and as many givers lose one."""
    takers = [i for i in np.argsort(-gains) if np.isfinite(gains[i])]
    givers = [i for i in np.argsort(losses) if np.isfinite(losses[i])]
    pairs: list[tuple[int, int]] = []
    for taker in takers:
        giver = next((g for g in givers if g != taker and g not in takers[: len(pairs) + 1]), None)
        if giver is None or gains[taker] <= losses[giver]:
            break
        givers.remove(giver)
        pairs.append((taker, giver))
    count = 1
    while count <= len(pairs):
        ratios = np.array(plan.ratios)
        for taker, giver in pairs[:count]:
            ratios[taker] -= step
            ratios[giver] += step
        yield plan.nearest(ratios)
        count = 2 * count if count == len(pairs) else min(2 * count, len(pairs))
