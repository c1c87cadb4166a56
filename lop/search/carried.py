"""Plans that are not found by a search at this target: changes found at other targets, adjusted to
this target's budget.

Between two targets, a predictor gives a mixture of what it learned at both, which may not help
there. So such plans are evaluated like the plans of a search, at the targets and at budgets between
them. The uniform plan and a plan half-way to it are also evaluated: a knapsack overfits to its
profile, and is sometimes worse than they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from lop.plan import Plan
from lop.search.base import Evaluated

CARRIED = "carried"  # the searcher's name in search samples


def carried(
    reward: Any,
    root: Plan,
    simulations: int,
    rng: Any,
    plans: Sequence[Sequence[int]] = (),
) -> Iterator[Evaluated]:
    """Evaluate the root, then each of `plans` (units kept), as `carried_plans` gives them."""
    known = [Plan(root.space, tuple(kept)) for kept in plans]
    for simulation, plan in enumerate([root, *known][:simulations]):
        yield Evaluated(plan, reward(plan), simulation, depth=min(simulation, 1))


def budgets(targets: Sequence[float], spacing: float) -> list[float]:
    """The targets, and evenly spaced budgets between them, so that no gap is above `spacing`."""
    ordered = sorted(set(targets))
    found = ordered[:1]
    for low, high in pairwise(ordered):
        steps = int(np.ceil((high - low) / spacing - 1e-9))
        found += [round(low + (high - low) * i / steps, 6) for i in range(1, steps)] + [high]
    return found


def differences(samples: pd.DataFrame) -> dict[float, np.ndarray]:
    """By target, the difference between the root and the plan with the largest held-out gain.

    In ratios, (S,). Targets without a plan of positive gain are left out.
    """
    found = {}
    for target, rows in samples.sort_values("simulation", kind="stable").groupby("target"):
        best = rows.loc[rows["gain"].fillna(0).idxmax()]
        if best["gain"] > 0:
            root = rows.iloc[0]
            found[float(target)] = np.array(best["plan"]) - np.array(root["plan"])
    return found


def carried_plans(root: Plan, target: float, found: Mapping[float, np.ndarray]) -> list[Plan]:
    """The plans to evaluate at `target`: distinct, and without the root.

    They are: the root with the change of the next target below, with that of the next target above,
    and with an interpolation of both; the uniform plan, and the plan half-way to it.
    """
    ratios, uniform = np.array(root.ratios), np.full(len(root.kept), target)
    below = max((t for t in found if t < target), default=None)
    above = min((t for t in found if t > target), default=None)
    changes = [found[t] for t in (below, above) if t is not None]
    if below is not None and above is not None:
        share = (target - below) / (above - below)
        changes.append((1 - share) * found[below] + share * found[above])
    wanted = [ratios + change for change in changes] + [(ratios + uniform) / 2, uniform]
    plans = (root.nearest(each) for each in wanted)
    return [plan for plan in dict.fromkeys(plans) if plan != root]
