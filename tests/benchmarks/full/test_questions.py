"""The reference model's table, of a few questions: from samples to a page."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.full import __main__ as full
from benchmarks.full.scale import Questions
from benchmarks.grid import cells, steps
from benchmarks.grid.draw import Draw
from lop.data.samples import read_samples


@pytest.fixture(scope="module")
def scale(tmp_path_factory):
    return Questions(
        runs=tmp_path_factory.mktemp("full") / "runs", draws=2, calibration=8, reward=8,
        chosen_on=8, test=8, ratios=(0.5,), targets=(0.3, 0.5), shares=(0.5,), simulations=2,
        workers=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def out(scale, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "full"
    steps.run(scale)
    full.write(scale, out)
    return out


def test_every_method_is_asked_in_every_draw(scale, out):
    found = pd.read_csv(out / "accuracy.csv")
    asked = found[(found["draw"] == "all") & (found["task"] == "overall")]
    methods = ["dense", "flap", "knapsack", "lop", "magnitude", "random", "uniform", "wanda_sp"]
    assert sorted(set(asked["method"])) == methods
    assert found.groupby(["task", "draw"]).size().loc["overall"].loc["1"] == len(asked)


def test_accuracy_is_the_mean_of_the_tasks_halves(scale, out):
    found = pd.read_csv(out / "accuracy.csv").set_index(["draw", "task", "method"])["accuracy"]
    for draw in ("all", "0", "1"):
        halves = [found.loc[draw, task, "lop"].mean() for task in ("easyvqa", "knowledge")]
        assert found.loc[draw, "overall", "lop"].mean() == pytest.approx(np.mean(halves), abs=1e-4)
    right = [cells.dense(Draw(scale, seed)).result().correct.mean() for seed in range(2)]
    assert found.loc["all", "overall", "dense"].mean() == pytest.approx(np.mean(right), abs=1e-4)


def test_lop_is_compared_over_all_draws(scale, out):
    found = pd.read_csv(out / "comparison.csv")
    every = found[found["task"] == "overall"].groupby("baseline")["draws"].max()
    assert (every == 2).all()
    assert (out / "accuracy.png").stat().st_size > 0
    assert "chose, draw by draw: " in (out / "full.md").read_text()


def test_draws_ask_questions_of_their_own(scale, out):
    first, second = (set(Draw(scale, seed).asked()[1]) for seed in range(2))
    assert first != second
    seen = [set(read_samples(Draw(scale, 0).samples(p))["image_id"]) for p in scale.sizes()]
    assert sum(map(len, seen)) == len(set.union(*seen))
