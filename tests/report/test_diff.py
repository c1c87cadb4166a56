"""`lop diff`: counts, McNemar's p-value, the page, one clear line for what has no difference."""

import math
from fractions import Fraction

import pandas as pd
import pytest
from evaluated import write_evaluation, write_rest

from lop.cli import main
from lop.errors import LopError
from lop.report.diff import mcnemar
from lop.report.questions import questions


@pytest.fixture
def made(samples, tmp_path, monkeypatch):
    write_evaluation(tmp_path / "data", samples, {"dense": 0.9, "lop-0.5": 0.4}, ["easyvqa_mmmu"])
    write_rest(tmp_path / "data", samples)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (3, 3), (12, 4), (40, 75), (900, 1100)])
def test_mcnemar_is_the_exact_binomial_test(lost, won):
    tail = sum(math.comb(lost + won, k) for k in range(min(lost, won) + 1))
    expected = min(1.0, float(Fraction(2 * tail, 2 ** (lost + won))))
    assert mcnemar(lost, won) == pytest.approx(expected)


def test_counts_and_page(made, capsys, samples):
    assert main(["diff", "dense", "lop-0.5", "--out", "diff.html"]) == 0
    said = capsys.readouterr().out
    a, b = (pd.read_parquet(made / f"evaluation/{n}/lop_vqa.parquet") for n in ("dense", "lop-0.5"))
    lost, won = (a["correct"] & ~b["correct"]).sum(), (~a["correct"] & b["correct"]).sum()
    counts = [line.split() for line in said.splitlines() if line.strip().startswith("all ")]
    assert counts == [["all", "12", str(lost + won), str(lost), str(won)]]
    assert f"p = {mcnemar(lost, won):.3g}" in said
    assert {line.split()[0] for line in said.splitlines()[3:-3]} == {"a", "b"}, "by category"
    page = (made.parent / "diff.html").read_text()
    assert page.count("data:image/png;base64,") == lost + won
    assert "is there a red shape in it?" in page
    assert main(["diff", "dense", "lop-0.5", "--out", "two.html", "--limit", "2"]) == 0
    two = (made.parent / "two.html").read_text()
    assert two.count("data:image/png;base64,") == 2
    assert f"the first 2 of {lost + won}" in two


def test_a_model_is_a_name_or_a_folder(made, capsys):
    folder = str((made / "evaluation/lop-0.5").resolve())
    assert main(["diff", "dense", "lop-0.5"]) == 0
    by_name = capsys.readouterr().out
    assert main(["diff", "dense", folder]) == 0
    assert capsys.readouterr().out == by_name
    assert main(["diff", "dense", "dense", "--out", "same.html"]) == 0
    assert "All answers are the same" in (made.parent / "same.html").read_text()


def damage(made, what):
    path = made / "evaluation/lop-0.5/lop_vqa.parquet"
    if what == "ids":
        table = pd.read_parquet(path)
        table.assign(id=[f"x{i}" for i in range(len(table))]).to_parquet(path)
    if what == "samples":
        samples = made / "samples/benchmark.parquet"
        table = pd.read_parquet(samples)
        table.assign(id=[f"x{i}" for i in range(len(table))]).to_parquet(samples)
    if what == "no samples":
        (made / "samples/benchmark.parquet").unlink()


@pytest.mark.parametrize(
    ("what", "models", "options", "message"),
    [
        ("", ("dense", "lop-0.5"), ["--task", "pope"], "no answers to task 'pope'; tasks of dense"),
        ("", ("dense", "lop-0.7"), [], "no model 'lop-0.7'; evaluated are dense, lop-0.5"),
        ("", ("dense", "lop-0.5"), ["--evaluation", "none"], "none: no such folder"),
        ("ids", ("dense", "lop-0.5"), [], "cannot pair the results: 12 and 12 samples, 0 ids"),
        ("samples", ("dense", "lop-0.5"), [], "benchmark.parquet: no sample s"),
        ("no samples", ("dense", "lop-0.5"), [], "benchmark.parquet: expected a folder, or a"),
    ],
)
def test_what_cannot_be_compared_is_one_line(made, capsys, what, models, options, message):
    damage(made, what)
    assert main(["diff", *models, *options, "--out", "diff.html"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lop: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(made.parent.glob("*diff*"))


def test_questions_are_found_in_each_benchmarks_own_columns(samples, tmp_path):
    image = samples["images"][0][0]
    path = tmp_path / "rows.parquet"

    def ask(task, name, **row):
        pd.DataFrame([row | {"question": "Is it red? "}]).to_parquet(path)
        (one,) = questions(path, task, [name])
        assert one["images"][0]["bytes"] == image["bytes"]
        return one["choices"], one["answer"]

    mme = {"question_id": "colour/1", "image": image, "answer": "Yes", "category": "colour"}
    assert ask("easyvqa_mme", "colour/1: Is it red?", **mme) == (None, "Yes")
    pope = {"question_id": "7", "image_source": "x", "image": image, "answer": "no"}
    assert ask("pope", "random-7", **pope, category="random") == (None, "no")
    bench = {"index": 3, "image": image, "A": "a", "B": "b", "C": "c", "D": None, "answer": "B"}
    assert ask("mmbench", "3", **bench) == (["a", "b", "c"], "B")
    assert ask("mmbench", "2000003", **bench) == (["c", "a", "b"], "C"), "rotated by two"
    hole = bench | {"A": "a", "B": "", "C": "c", "D": "d", "answer": "C"}
    assert ask("mmbench", "3", **hole) == (["a", "", "c", "d"], "C"), "letters stay"
    assert ask("mmbench", "1000003", **hole) == (["c", "", "d", "a"], "A")
    same = bench | {"A": "two", "B": "two", "answer": "B"}
    assert ask("mmbench", "1000003", **same) == (["two", "c", "two"], "A"), "turned by place"
    mmmu = {"id": "test_Art_1", "image_1": image, "options": "['u', 'v']", "answer": "A"}
    assert ask("mmmu_val", "test_Art_1", **mmmu) == (["u", "v"], "A")
    assert ask("mmmu_val", "test_Art_1", **mmmu | {"options": ["u", "v"]}) == (["u", "v"], "A")
    with pytest.raises(LopError, match=r"rows\.parquet, row 0: no question of pope"):
        ask("pope", "random-7", image=image, answer="no")
