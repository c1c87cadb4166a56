"""Both scopes of a tiny model of text, at equal parameters and at equal latency."""

import sys

import numpy as np
import pandas as pd
import pytest
import texts
import torch

from benchmarks.grid import cells, progress
from benchmarks.grid.draw import Draw
from benchmarks.grid.figures import difference
from benchmarks.grid.scale import PURPOSES
from benchmarks.real.scale import Texts
from benchmarks.scopes import __main__ as scopes
from benchmarks.scopes import compared as of_models
from benchmarks.scopes import latency
from benchmarks.scopes.compared import JOINT, Compared
from benchmarks.scopes.latency import Timed
from lop.evaluation.latency import COLUMNS, REST, LatencyProfile, Machine
from lop.plan import Plan


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model and its texts, of which the draws are judged at equal parameters."""
    folder = tmp_path_factory.mktemp("scopes")
    texts.write_model_and_texts(folder, PURPOSES)
    return folder


@pytest.fixture(autouse=True)
def scale(place, monkeypatch):
    scale = Texts(
        model=place / "model", text=place / "text", runs=place / "runs", window=12,
        calibration=6, reward=4, chosen_on=4, test=6, shares=(0.3, 0.6), workers=1,
    )  # fmt: skip
    monkeypatch.setitem(of_models.MODELS, "real", scale)
    monkeypatch.setattr(Texts, "ready", lambda self: None)
    monkeypatch.setattr(scopes, "RESULTS", place)
    return scale


@pytest.fixture
def compared():
    compared = Compared.of("real", 2, searched=False)
    for step in compared.steps():
        progress.run([step])
    return compared


@pytest.fixture
def timed(compared):
    """On a machine on which attention takes most of the time, in proportion to its units."""
    timed = Timed(compared, 16)
    if not timed.path.exists():
        space = timed.scale.space
        rows = [(REST, 0, 20.0, 20.0)]
        for site, (units, kind) in enumerate(zip(space.units, space.kinds, strict=True)):
            full = 90.0 if kind == "attention" else 60.0
            rows += [(site, k, full * k / units, full * k / units) for k in (1, units)]
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        machine = Machine("cpu", "another", "float32", 1)
        LatencyProfile(space, timed.request, machine, table).save(timed.path)
    return timed


def test_a_model_is_timed_once_on_one_thread(compared, monkeypatch):
    threads, before = [], torch.get_num_threads()
    measure = latency.measure

    def watched(model, request):
        threads.append(torch.get_num_threads())
        return measure(model, request, shares=(1.0, 0.5), repeats=1)

    monkeypatch.setattr(latency, "measure", watched)
    timed = Timed(compared, 1)
    torch.set_num_threads(2)
    for _ in range(2):
        progress.run([next(timed.steps())])
    assert threads == [1]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    found = LatencyProfile.load(timed.path)
    assert found.request == timed.request
    assert set(found.space.kinds) == {"ffn", "attention"}
    assert Timed(compared, 16).path != timed.path
    timed.path.unlink()


def test_plans_of_both_scopes_meet_the_same_latencies(timed):
    found = LatencyProfile.load(timed.path)
    dense = found.of(timed.scale.space.dense)
    assert timed.reached(JOINT)[: len(timed.reached("ffn"))] == timed.reached("ffn")
    assert len(timed.reached(JOINT)) > len(timed.reached("ffn")) > 1
    for seed in (0, 1):
        for scope, scale in timed.compared.scales.items():
            for share, cell in timed.cells(Draw(scale, seed)).items():
                assert found.of(cell.plan) <= share * dense + 1e-9
                assert cell.plan.space.scope == scope
    least = found.of(Plan(scale.space, scale.space.floors))
    assert least <= min(timed.reached(scope)) * dense


def test_rows_and_differences_are_those_of_the_samples(timed):
    for step in timed.steps():
        progress.run([step])
    timed = Timed(timed.compared, timed.batch)
    assert len(timed.draws) == 2
    rows = timed.values().set_index(["scope", "latency_target"])
    assert set(rows["method"]) == {"knapsack"}
    assert rows.loc[JOINT].index.tolist() == [f"{s:g}x" for s in timed.reached(JOINT)]
    joint, alone = ([of[scope][0.9].result() for of in timed.draws] for scope in (JOINT, "ffn"))
    lost = -np.concatenate([of.loglik for of in joint])
    tokens = np.concatenate([of.tokens for of in joint])
    value = np.exp(lost.sum() / tokens.sum())
    assert rows.loc[(JOINT, "0.9x"), "value"] == pytest.approx(value)
    asked = [Draw(timed.scale, seed).asked()[0] for seed in (0, 1)]
    ours, theirs = ([-of.loglik for of in scope] for scope in (joint, alone))
    gap = difference(ours, theirs, [of.tokens for of in joint], asked)
    (first, *_) = timed.gaps()
    assert first == pytest.approx((0.9, *gap))


def test_finished_draws_are_used_again_and_stand_on_the_page(timed, place, monkeypatch):
    monkeypatch.setattr(scopes, "BATCHES", [timed.batch])
    monkeypatch.setattr(sys, "argv", ["scopes", "--model", "real", "--draws", "2", "--latency"])
    scopes.main()
    monkeypatch.setattr(cells, "_measure", lambda cell: pytest.fail(f"{cell.path} again"))
    for further in ("--latency", "--page"):
        monkeypatch.setattr(sys, "argv", [*sys.argv[:-1], further])
        scopes.main()
    found = pd.read_csv(place / "scopes_latency.csv")
    columns = ["model", "scope", "method", "batch", "latency_target", "predicted_ms"]
    assert found.columns.tolist() == [*columns, "value", "stderr"]
    assert len(found) == len(timed.reached(JOINT)) + len(timed.reached("ffn"))
    page = (place / "scopes.md").read_text()
    assert "### At equal latency, 16 prompts at once" in page
    assert "With attention minus FFNs alone, in nats a token" in page
    assert "[scopes_latency.csv](scopes_latency.csv)" in page
    assert set(pd.read_csv(place / "scopes.csv")["scope"]) == {"ffn", JOINT}
