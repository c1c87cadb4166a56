"""The knapsack against hand-worked and brute-forced cases."""

from dataclasses import asdict
from itertools import product

import numpy as np
import pandas as pd
import pytest

from lop.errors import LopError
from lop.methods import PlanInputs, method
from lop.plan import Plan, Space
from lop.profile import Profile, measure, solve
from lop.search.knapsack import knapsack

SPACE = Space.ffns((10, 10))


def additive(weights):
    """Site l loses weights[l] · (share removed)²."""
    return lambda plan: -sum(w * r * r for w, r in zip(weights, plan.ratios, strict=True))


def test_a_hand_worked_case():
    # half of 20 neurons go: 0.2² + 4 · 0.8² … the sum is least where 2·r0 = 2·4·r1, r0 + r1 = 1
    measured = measure(additive((1, 4)), SPACE)
    assert solve(measured, 0.5).kept == (2, 8)


ATTENTION = Space.of(
    (6, 2, 10, 3), (2, 7, 2, 7), ("ffn", "attention", "ffn", "attention"), (0, 1, 1, 2)
)


@pytest.mark.parametrize("space", [Space.ffns((6, 10, 8)), ATTENTION], ids=["ffn", "attention"])
@pytest.mark.parametrize("ratio", [0, 0.2, 0.35, 0.5, 0.8])
def test_it_finds_the_best_of_all_plans_of_an_additive_reward(space, ratio):
    rng = np.random.default_rng(0)
    lost = [np.sort(rng.random(d + 1))[::-1] for d in space.units]  # falls as more is kept

    def reward(plan):
        return -float(sum(table[k] for table, k in zip(lost, plan.kept, strict=True)))

    shares = [i / 60 for i in range(60)]  # every size of every site
    plan = solve(measure(reward, space, shares), min(ratio, space.max_ratio))
    grids = [range(low, d + 1) for low, d in zip(space.floors, space.units, strict=True)]
    price = space.grain * 4 if space is ATTENTION else space.grain  # of a head, in whole neurons
    within = [Plan(space, k) for k in product(*grids)]
    rivals = [p for p in within if 0 <= plan.budget - p.parameters < price]
    assert plan in rivals
    # heads of 3.5 neurons count as 4 in the sum: what is left over is half a neuron a head
    best = max(p for p in map(reward, rivals))
    assert reward(plan) == pytest.approx(best) if space is not ATTENTION else best - 0.2


@pytest.mark.parametrize("removed", range(0, 30, 3))
def test_as_a_searcher_it_stays_on_the_budget_of_its_root(removed):
    """Also where heads have the root a part of a neuron off it."""
    reward = additive((1, 4, 2, 3))
    root = Plan.within(ATTENTION, (0.2, 0.5, 0.2, 0.3), ATTENTION.total - removed)
    (found,) = knapsack(reward, root, 1, None, shares=(0.5,))
    assert found.plan.budget == root.budget
    assert found.plan.parameters > root.budget - ATTENTION.step


def test_wide_models_stay_on_the_budget_to_the_neuron():
    space = Space.ffns((18_944,) * 28)
    plan = solve(measure(additive(np.linspace(4, 1, 28)), space), 0.37)
    assert plan.parameters == space.budget(0.37)
    assert list(plan.ratios) == sorted(plan.ratios)


def test_a_profile_survives_its_file_and_names_a_broken_one(tmp_path):
    measured = measure(additive((1, 4)), SPACE)
    measured.save(tmp_path / "profile.parquet")
    loaded = Profile.load(tmp_path / "profile.parquet")
    assert solve(loaded, 0.3) == solve(measured, 0.3)
    (tmp_path / "profile.parquet").write_bytes(b"PAR1")
    with pytest.raises(LopError, match="cannot read a profile"):
        Profile.load(tmp_path / "profile.parquet")


def test_each_layer_is_measured_once_a_share_with_all_others_whole():
    asked = []
    space = Space.ffns((10, 20))
    measure(lambda plan: asked.append(plan.kept) or 0.0, space, shares=(0.5, 0.95))
    assert sorted(set(asked)) == [(1, 20), (5, 20), (10, 2), (10, 10), (10, 20)]


GOOD = {
    "site": [0, 0, 1, 1],
    "kept": [5, 10, 5, 10],
    "reward": [-1.0, 0.0, -2.0, 0.0],
    "fingerprint": ["r"] * 4,
}


def table(columns):
    found = pd.DataFrame(columns)
    found.attrs["space"] = asdict(SPACE)
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({name: [] for name in GOOD}, "no rows"),
        ({"kept": None}, "column 'kept' is missing"),
        ({"fingerprint": None}, "column 'fingerprint' is missing"),
        ({"reward": [0.0, float("nan"), 0.0, 0.0]}, "column 'reward': expected finite numbers"),
        ({"reward": [0.0, float("inf"), 0.0, 0.0]}, "column 'reward': expected finite numbers"),
        ({"reward": ["a", "b", "c", "d"]}, "column 'reward': expected finite numbers"),
        ({"kept": [5, 10, 5, 0]}, "column 'site': no row of site 1 with all of its units"),
        ({"kept": [5, 10, 5, 9.5]}, "column 'kept': expected whole numbers"),
        ({"site": [-1, -1, 0, 0]}, "column 'site': expected whole numbers from 0 on"),
        ({"site": [0, 0, 2, 2]}, "column 'site': no row of site 1 with all of its units"),
        ({"site": [0, 1, 2, 2]}, "column 'site': no row of site 0 with all of its units"),
        ({"kept": [5, 10, 10, 10]}, "row 4: repeats the site and kept of an earlier row"),
        ({"fingerprint": ["r", "r", "r", "s"]}, "expected one text in all rows"),
    ],
    ids=str,
)
def test_a_table_that_is_no_profile_is_refused_by_name(tmp_path, change, message):
    path = tmp_path / "profile.parquet"
    columns = {name: values for name, values in (GOOD | change).items() if values is not None}
    table(columns).to_parquet(path)
    with pytest.raises(LopError) as told:
        Profile.load(path)
    assert str(told.value).startswith(f"{path}: cannot read a profile: ")
    assert message in str(told.value)


def test_a_profile_of_another_model_is_refused(tmp_path):
    path = tmp_path / "profile.parquet"
    table(GOOD).to_parquet(path)
    rule = method("knapsack", PlanInputs("flap", profile=Profile.load(path))).plan
    assert rule(0.25, SPACE, {}).space == SPACE
    for other in (Space.ffns((10, 9)), Space.ffns((10,)), Space.ffns((10, 10), floor=0.2)):
        with pytest.raises(LopError, match="profile of a model with units"):
            rule(0.25, other, {})


def test_a_profile_without_its_space_is_refused(tmp_path):
    path = tmp_path / "profile.parquet"
    pd.DataFrame(GOOD).to_parquet(path)
    with pytest.raises(LopError, match="cannot read a profile: its space: "):
        Profile.load(path)
