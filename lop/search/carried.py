"""Plans that no search found: what was found at other targets, put on this one's budget.

Between two targets a predictor says what it learned at them. That is right only where it still
helps: so such plans are judged as a search's are, at the targets and at budgets between them. The
uniform plan and one half-way to it are judged as well: a knapsack fits its profile, and is
sometimes behind them.
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
    """The root, then each of `plans` (units kept), as `carried_plans` makes them."""
    known = [Plan(root.space, tuple(kept)) for kept in plans]
    for simulation, plan in enumerate([root, *known][:simulations]):
        yield Evaluated(plan, reward(plan), simulation, depth=min(simulation, 1))


def budgets(targets: Sequence[float], spacing: float) -> list[float]:
    """The targets, and evenly between them as many budgets as leave no gap above `spacing`."""
    ordered = sorted(set(targets))
    found = ordered[:1]
    for low, high in pairwise(ordered):
        steps = int(np.ceil((high - low) / spacing - 1e-9))
        found += [round(low + (high - low) * i / steps, 6) for i in range(1, steps)] + [high]
    return found


def differences(samples: pd.DataFrame) -> dict[float, np.ndarray]:
    """By target, how the plan with the most gain on held-out samples differs from the root's.

    In ratios, (S,). Targets where no plan has a gain are left out.
    """
    found = {}
    for target, rows in samples.sort_values("simulation", kind="stable").groupby("target"):
        best = rows.loc[rows["gain"].fillna(0).idxmax()]
        if best["gain"] > 0:
            root = rows.iloc[0]
            found[float(target)] = np.array(best["plan"]) - np.array(root["plan"])
    return found


def carried_plans(root: Plan, target: float, found: Mapping[float, np.ndarray]) -> list[Plan]:
    """The plans to judge at `target`, each once and none the root.

    They are: the root as changed at the next target below, at the next above, and by both; the
    uniform plan, and the one half-way to it.
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
