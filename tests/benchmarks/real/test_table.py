"""The whole table, of a tiny model of text: from documents to a page."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import texts

from benchmarks.grid import cells, steps
from benchmarks.grid.draw import Draw
from benchmarks.grid.scale import PURPOSES, Ranking, Row
from benchmarks.real import __main__ as real
from benchmarks.real.scale import Texts
from lop.profile import solve

RIVAL = Ranking("flap", True)


@pytest.fixture(scope="module")
def scale(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    texts.write_model_and_texts(folder, PURPOSES)
    return Texts(
        model=folder / "model", text=folder / "text", runs=folder / "runs", draws=2, window=12,
        calibration=6, reward=4, test=6, ratios=(0.2, 0.5), targets=(0.2, 0.5), shares=(0.5,),
        simulations=2, rivals=(RIVAL,), workers=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def out(scale, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "real"
    steps.run(scale)
    real.write(scale, out)
    return out


def test_every_row_has_a_perplexity_at_every_ratio(scale, out):
    found = pd.read_csv(out / "perplexity.csv")
    counts = found[found["method"] != "dense"].groupby("draw").size()
    every, first = (len(of) * len(scale.ratios) for of in (scale.rows(), scale.further()))
    assert counts.to_dict() == {"all": every, "0": every + first, "1": every}
    assert (found["perplexity"] > 1).all()
    assert (found["stderr"] > 0).all()
    assert set(found.loc[found["method"] == "dense", "ratio"]) == {0}


def test_lop_is_compared_with_every_other_row(scale, out):
    found = pd.read_csv(out / "comparison.csv")
    others = len(scale.rows()) + len(scale.further()) - 1
    assert found.groupby("ratio").size().tolist() == [others, others]
    rival = (found["score"] == "flap") & found["baseline"].isin(["lop", "knapsack", "uniform"])
    assert set(found.loc[rival, "draws"]) == {1}
    assert set(found.loc[found["baseline"] == "wanda_sp", "draws"]) == {2}
    text = (out / "real.md").read_text()
    assert "| LOP, FLAP's score, compensated |" in text
    assert (out / "perplexity.png").stat().st_size > 0


def test_a_finished_run_measures_nothing_again(scale, out, monkeypatch, tmp_path):
    monkeypatch.setattr(cells, "_measure", lambda cell: pytest.fail(f"{cell.path} again"))
    before = (out / "comparison.csv").read_text()
    steps.run(scale)
    real.write(scale, tmp_path / "real")
    assert (tmp_path / "real" / "comparison.csv").read_text() == before


def test_equal_plans_share_a_cell(scale, out):
    draw = Draw(scale, 0)
    a = cells.cell(draw, Row("uniform", RIVAL), 0.5)
    assert a.path.exists()
    assert a.path != cells.cell(draw, Row("uniform", Ranking("flap", False)), 0.5).path
    found = a.result()
    assert (found.loglik < 0).all()
    assert found.tokens.tolist() == [12] * 6


def test_other_settings_are_another_run(scale):
    more = [{"reward": 5}, {"simulations": 3}, {"ratios": (0.2,)}, {"rivals": ()}]
    folders = {Texts(**vars_of(scale) | change).folder for change in [{}, *more]}
    assert len(folders) == 5
    assert Texts(**vars_of(scale) | {"draws": 3, "workers": 2}).folder == scale.folder


def test_defaults_are_chosen_without_the_test_text(scale):
    draw = Draw(replace(scale, test=0, validation=5), 0)
    profile = steps.profile(draw)
    with draw.reward("validation", draw.chosen) as reward:
        assert len(reward.values(solve(profile, 0.5), 0)) == 5
    with draw.reward("reward", draw.chosen) as reward:
        assert reward.fingerprint == profile.fingerprint
    documents, _ = draw.asked("validation")
    assert all(name.startswith("validation-") for name in np.unique(documents))
    assert not draw.samples("test").exists()
    assert draw.scale.folder != scale.folder


def vars_of(scale):
    return {name: getattr(scale, name) for name in scale.__dataclass_fields__}
