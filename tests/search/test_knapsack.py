"""The knapsack against hand-worked and brute-forced cases."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from lop.errors import LopError
from lop.methods import Kit, method
from lop.plan import Plan, budget, min_kept
from lop.search.knapsack import Profile, profile, solve

WIDTHS = (10, 10)


def additive(weights, widths):
    """Layer l loses weights[l] · (share removed)²."""
    return lambda plan: -sum(w * r * r for w, r in zip(weights, plan.ratios, strict=True))


def test_a_hand_worked_case():
    # half of 20 neurons go: 0.2² + 4 · 0.8² … the sum is least where 2·r0 = 2·4·r1, r0 + r1 = 1
    measured = profile(additive((1, 4), WIDTHS), WIDTHS)
    assert solve(measured, 0.5).kept == (2, 8)


@pytest.mark.parametrize("ratio", [0, 0.2, 0.35, 0.5, 0.8])
def test_it_finds_the_best_of_all_plans_of_an_additive_reward(ratio):
    widths = (6, 10, 8)
    rng = np.random.default_rng(0)
    lost = [np.sort(rng.random(d + 1))[::-1] for d in widths]  # falls as more is kept

    def reward(plan):
        return -float(sum(table[k] for table, k in zip(lost, plan.kept, strict=True)))

    shares = [i / 60 for i in range(60)]  # every width of every layer
    plan = solve(profile(reward, widths, shares), ratio)
    low = min_kept(widths)
    grids = [range(least, d + 1) for least, d in zip(low, widths, strict=True)]
    rivals = [Plan(widths, k) for k in product(*grids) if sum(k) == budget(widths, ratio)]
    assert plan in rivals
    assert reward(plan) == pytest.approx(max(map(reward, rivals)))


def test_wide_models_stay_on_the_budget_to_the_neuron():
    widths = (18_944,) * 28
    measured = profile(additive(np.linspace(4, 1, 28), widths), widths)
    plan = solve(measured, 0.37)
    assert sum(plan.kept) == budget(widths, 0.37)
    assert list(plan.ratios) == sorted(plan.ratios)


def test_a_profile_survives_its_file_and_names_a_broken_one(tmp_path):
    measured = profile(additive((1, 4), WIDTHS), WIDTHS)
    measured.save(tmp_path / "profile.parquet")
    loaded = Profile.load(tmp_path / "profile.parquet")
    assert solve(loaded, 0.3) == solve(measured, 0.3)
    (tmp_path / "profile.parquet").write_bytes(b"PAR1")
    with pytest.raises(LopError, match="cannot read a profile"):
        Profile.load(tmp_path / "profile.parquet")


def test_each_layer_is_measured_once_a_share_with_all_others_whole():
    asked = []
    profile(lambda plan: asked.append(plan.kept) or 0.0, (10, 20), shares=(0.5, 0.95))
    assert sorted(set(asked)) == [(1, 20), (5, 20), (10, 2), (10, 10), (10, 20)]


GOOD = {
    "layer": [0, 0, 1, 1],
    "kept": [5, 10, 5, 10],
    "reward": [-1.0, 0.0, -2.0, 0.0],
    "fingerprint": ["r"] * 4,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({name: [] for name in GOOD}, "no rows"),
        ({"kept": None}, "column 'kept' is missing"),
        ({"fingerprint": None}, "column 'fingerprint' is missing"),
        ({"reward": [0.0, float("nan"), 0.0, 0.0]}, "column 'reward': expected finite numbers"),
        ({"reward": [0.0, float("inf"), 0.0, 0.0]}, "column 'reward': expected finite numbers"),
        ({"reward": ["a", "b", "c", "d"]}, "column 'reward': expected finite numbers"),
        ({"kept": [5, 10, 5, 0]}, "column 'kept': expected whole numbers from 1 on"),
        ({"kept": [5, 10, 5, 9.5]}, "column 'kept': expected whole numbers"),
        ({"layer": [-1, -1, 0, 0]}, "column 'layer': expected whole numbers from 0 on"),
        ({"layer": [0, 0, 2, 2]}, "column 'layer': no row of layer 1, though there is one of 2"),
        ({"kept": [5, 10, 10, 10]}, "row 4: its layer and kept are there already"),
        ({"fingerprint": ["r", "r", "r", "s"]}, "expected one text in all rows"),
    ],
    ids=str,
)
def test_a_table_that_is_no_profile_is_refused_by_name(tmp_path, change, message):
    path = tmp_path / "profile.parquet"
    columns = {name: values for name, values in (GOOD | change).items() if values is not None}
    pd.DataFrame(columns).to_parquet(path)
    with pytest.raises(LopError) as told:
        Profile.load(path)
    assert str(told.value).startswith(f"{path}: cannot read a profile: ")
    assert message in str(told.value)


def test_a_profile_of_another_model_is_refused(tmp_path):
    path = tmp_path / "profile.parquet"
    pd.DataFrame(GOOD).to_parquet(path)
    rule = method("knapsack", Kit("flap", profile=Profile.load(path))).plan
    assert rule(0.25, (10, 10), {}).widths == (10, 10)
    for widths in ((10, 9), (10,)):
        with pytest.raises(LopError, match="profile of a model with FFN widths"):
            rule(0.25, widths, {})
