"""The bookkeeping of the predictor experiment; its searches and networks are tested elsewhere."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from benchmarks import predictors_page
from benchmarks.predictors import CHOICES, FULL, QUICK, Case, cases, select
from lop.plan import Plan
from lop.search.mcts import mcts


def test_a_short_search_begins_a_longer_one():
    def plans(simulations):
        root, rng = Plan.uniform((40,) * 4, 0.4), np.random.default_rng(0)
        steps = mcts(lambda plan: -plan.ratios[0] - plan.ratios[1] ** 2, root, simulations, rng)
        return [step.plan for step in steps]

    assert plans(20) == plans(60)[:20]


@pytest.mark.parametrize("scale", [FULL, QUICK])
def test_nobody_searches_an_unseen_ratio(scale):
    sets = list(scale.targets.values())
    assert [len(s) for s in sets] == list(scale.targets)
    assert all(set(few) < set(more) for few, more in pairwise(sets))
    assert not set(scale.unseen) & set(sets[-1])
    assert set(scale.seen) <= set(scale.targets[5])
    assert all(targets[0] < min(scale.unseen) < max(scale.unseen) < targets[-1] for targets in sets)
    assert len(set(cases(scale))) == len(list(cases(scale)))


def test_a_case_learns_from_its_own_searches_only():
    rows = [
        (target, seed, n, [n, 40 - n - seed], float(n))
        for target in (0.1, 0.2, 0.3, 0.5, 0.6, 0.25)
        for seed in (0, 1)
        for n in range(20)
    ]
    searched = pd.DataFrame(rows, columns=["target", "seed", "simulation", "kept", "reward"])
    searched["searcher"] = "mcts"
    one = Case("choices", "mlp", "top 3", CHOICES["top 3"], 5, 12, seed=1)
    good = select(searched, one, FULL)
    assert set(good["target"]) == set(FULL.targets[5])
    assert set(good["seed"]) == {1}
    assert good.groupby("target")["simulation"].apply(set).eq({9, 10, 11}).all()
    both = Case("choices", "mlp", "", CHOICES["all seeds, top 5 of each"], 5, 12, seed=1)
    assert select(searched, both, FULL).groupby(["target", "seed"]).size().eq(5).all()


def judged():
    """Four questions at two unseen ratios and a seen one; everybody is alike at every ratio."""
    right = {"uniform": [1, 0, 0, 0], "search": [1, 1, 1, 1], "good": [1, 1, 1, 1]}
    right |= {"poor": [1, 1, 0, 0], "knapsack": [1, 1, 0, 0]}
    rows = []
    for ratio in (0.25, 0.3, 0.4):
        for who in ("uniform", "knapsack"):
            rows.append({"part": who, "seed": 0, "who": who, "ratio": ratio})
        for seed in (0, 1):
            rows.append({"part": "search", "seed": seed, "who": "search", "ratio": ratio})
            for who in ("good", "poor"):
                case = {"kind": who, "samples": "top 1", "targets": 5, "plans": 60, "seed": seed}
                case |= {"who": who, "ratio": ratio, "simulations": 12 if who == "good" else 6}
                rows += [case | {"part": part} for part in ("choices", "learning")]
    table = pd.DataFrame(rows)
    table["correct"] = [np.array(right[who], dtype=np.float32) for who in table["who"]]
    table["loglik"] = [np.log(0.1 + 0.8 * correct) for correct in table["correct"]]
    return table[(table["part"] != "learning") | (table["ratio"] != 0.3)]


def test_gaps_are_relative_to_a_search():
    table = predictors_page.choices(judged(), [0.25, 0.4]).set_index("kind")
    good, poor = table.loc["good"], table.loc["poor"]
    assert (good["accuracy"], good["accuracy_gap"], good["likelihood_gap"]) == (100, 0, 0)
    assert good["aim"] == "accuracy and likelihood"
    assert good["accuracy_above_uniform"] == 75
    assert poor["accuracy_gap"] == 50
    # half the answers are nine times less likely: a third of the geometric mean is left
    assert poor["likelihood_gap"] == pytest.approx(100 * (1 - 1 / 3), abs=1e-3)
    assert poor["aim"] == "no"
    assert poor["accuracy_spread"] == 0


def test_the_page_has_its_tables_and_plot(tmp_path):
    predictors_page.write_results(judged(), [0.25, 0.4], tmp_path / "results")
    files = {path.name for path in (tmp_path / "results").iterdir()}
    tables = {"ratios.csv", "unseen.csv", "seen.csv", "learning.csv"}
    assert files == tables | {"learning.png", "predictors.md"}
    page = (tmp_path / "results" / "predictors.md").read_text()
    assert "| poor | top 1 | 60 | 50.00 ± 0.00 |" in page
    assert "| 5 | 50.00 / 66.67 | 0.00 / 0.00 |" in page
    assert "from: 60 plans (5 targets of 12)" in page
    assert "nan" not in page
    assert page.count("| search |  |  | 100.00 ± 0.00 |") == 2, "among unseen and seen ratios"
