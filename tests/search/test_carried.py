"""What was found at one target is judged at others, and learned only where it helps there."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lop.plan import Plan, Space
from lop.search import search
from lop.search.carried import CARRIED, budgets, carried_plans, differences

SPACE = Space.ffns((40, 40, 40))


@pytest.mark.parametrize(
    ("targets", "spacing", "expected"),
    [
        ([0.5, 0.2], 0.1, [0.2, 0.3, 0.4, 0.5]),
        ([0.2, 0.35], 0.1, [0.2, 0.275, 0.35]),
        ([0.2, 0.5], 0.3, [0.2, 0.5]),
        ([0.3, 0.3], 0.05, [0.3]),
    ],
)
def test_budgets_are_the_targets_and_between_them(targets, spacing, expected):
    assert budgets(targets, spacing) == expected


def found(**gains):
    """A table of samples: the root, and a plan that moves 4 neurons from layer 0 to layer 2."""
    rows = []
    for target, gain in gains.items():
        for simulation, moved, gained in ((0, 0, 0.0), (1, 4, gain)):
            plan = [0.5 + moved / 40, 0.5, 0.5 - moved / 40]
            rows.append({"target": float(target[1:]) / 100, "simulation": simulation,
                         "plan": plan, "gain": gained})  # fmt: skip
    return pd.DataFrame(rows)


def test_differences_are_those_of_plans_that_gained():
    changes = differences(found(_20=0.1, _40=-0.1, _60=np.nan))
    assert list(changes) == [0.2]
    np.testing.assert_allclose(changes[0.2], [0.1, 0, -0.1])


def test_plans_come_from_both_neighbours_and_from_uniform():
    root = Plan(SPACE, (20, 28, 12))
    changes = {0.4: np.array([0.1, 0, -0.1]), 0.6: np.array([0, 0.2, -0.2])}
    plans = [plan.kept for plan in carried_plans(root, 0.5, changes)]
    # below's change, above's, half of each; uniform is the second too, and then half-way to it
    assert plans == [(16, 28, 16), (20, 20, 20), (18, 24, 18), (20, 24, 16)]
    assert carried_plans(Plan.uniform(SPACE, 0.5), 0.5, {}) == []


class Reward:
    """A plan's reward is minus its distance from the best one; each part has two pictures."""

    space, model_fingerprint, fingerprint = SPACE, "model", "reward"
    parts = tuple(SimpleNamespace(pictures=np.array(["a", "b"])) for _ in range(4))

    def values(self, plan, part):
        return np.full(2, -np.abs(np.array(plan.kept) - (16, 28, 16)).sum()) + [0, part]


def test_they_are_judged_by_samples_held_out():
    root = Plan(SPACE, (20, 28, 12))
    plans = [(16, 28, 16), (20, 20, 20)]
    samples = search(Reward(), 0.5, 0, 3, CARRIED, root, plans=plans)
    assert samples["kept"].map(tuple).tolist() == [root.kept, *plans]
    assert samples["gain"].tolist() == [0, 8, -8]
