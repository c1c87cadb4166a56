"""Paired differences against hand-worked cases, and against resampling."""

import math

import numpy as np
import pandas as pd
import pytest
from evaluated import benchmark_answers

from lop.errors import LopError
from lop.paired import METRICS, paired, parts, read_answers, score


def table(correct, groups=None, answer="yes", category="existence", ids=None):
    n = len(correct)
    ids = ids or [f"s{i}" for i in range(n)]
    columns = {"id": ids, "group": groups or ids, "category": category, "answer": answer}
    return pd.DataFrame(columns | {"prediction": "?", "correct": correct})


def test_accuracy_by_hand():
    a, b = table([True, True, True, False]), table([True, False, False, False])
    # differences 0, 1, 1, 0: mean 1/2, variance 1/3, standard error √(1/3 / 4)
    difference, error = paired(a, b.sample(frac=1, random_state=1), "accuracy")
    assert difference == 0.5
    assert error == pytest.approx(math.sqrt(1 / 12))
    assert paired(a, a, "accuracy") == (0, 0)
    assert math.isnan(paired(a.head(1), b.head(1), "accuracy")[1])


def test_questions_on_one_image_are_no_independent_evidence():
    a, b = table([True] * 6 + [False] * 2), table([True] * 4 + [False] * 4)
    groups = ["x", "x", "y", "y", "z", "z", "w", "w"]
    alone = paired(a, b, "accuracy")
    together = paired(a.assign(group=groups), b.assign(group=groups), "accuracy")
    assert together[0] == alone[0] == 0.25
    # differences by group 0, 0, 1, 0: standard error √(1/4 / 4)
    assert together[1] == pytest.approx(0.25)
    assert together[1] > alone[1]


def test_yes_no_metrics_by_hand():
    # two hits, one miss, one false alarm, one right no
    rows = table([True, True, False, False, True], answer=["yes", "yes", "yes", "no", "no"])
    assert score(rows, "precision") == pytest.approx(2 / 3)
    assert score(rows, "recall") == pytest.approx(2 / 3)
    assert score(rows, "f1") == pytest.approx(2 / 3)
    assert score(rows, "yes_ratio") == pytest.approx(3 / 5)
    nothing = table([False, False], answer=["yes", "yes"])
    assert score(nothing, "precision") == score(nothing, "f1") == 0


def test_mme_by_hand():
    # existence: images x (both right) and y (one): 75 + 50; y's other half alone is no pair
    rows = table(
        [True, True, True, False, True],
        groups=["x", "x", "y", "y", "z"],
        category=["existence"] * 4 + ["code_reasoning"],
    )
    assert score(rows, "perception") == pytest.approx(125)
    assert score(rows, "cognition") == pytest.approx(100), "an image with one question is no pair"


def test_mmbench_by_hand():
    ids = ["1", "1000001", "2", "1000002"]
    rows = table([True, False, True, True], groups=["1", "1", "2", "2"], ids=ids)
    assert score(rows, "accuracy") == 1, "of a single pass: the unrotated questions"
    assert score(rows, "circular") == 0.5


def test_the_error_of_a_score_by_hand():
    a, b = (benchmark_answers("easyvqa_mme", right, count=400) for right in (0.9, 0.7))
    a, b = (side[side["category"] == "colour"] for side in (a, b))
    # 100 points for the share right of an image's two questions, and 100 if both are
    points = [side.groupby("group")["correct"].agg(["mean", "all"]).sum(axis=1) for side in (a, b)]
    assert paired(a, b.sample(frac=1, random_state=3), "perception") == (
        pytest.approx(100 * (points[0] - points[1]).mean()),
        pytest.approx(100 * (points[0] - points[1]).sem()),
    )


@pytest.mark.parametrize("metric", ["accuracy", "circular", "perception", "f1"])
def test_the_error_is_that_of_a_bootstrap_over_groups(metric):
    task = "easyvqa_mmbench" if metric == "circular" else "easyvqa_mme"
    a, b = (benchmark_answers(task, right, count=400) for right in (0.9, 0.7))
    difference, error = paired(a, b, metric)
    rng, sides = np.random.default_rng(0), (parts(a), parts(b))
    drawn = []
    for _ in range(500):
        chosen = rng.integers(len(sides[0]), size=len(sides[0]))
        sums = [dict(zip(s, s.to_numpy()[chosen].sum(0), strict=True)) for s in sides]
        drawn.append(METRICS[metric](sums[0]) - METRICS[metric](sums[1]))
    assert difference == pytest.approx(score(a, metric) - score(b, metric))
    assert error == pytest.approx(np.std(drawn), rel=0.2)


def test_what_cannot_be_paired_is_named():
    a = table([True, False])
    for ids in (["s0", "x"], ["s0", "s0"], ["s0", "s1", "s2"]):
        with pytest.raises(LopError, match="cannot pair"):
            paired(a, table([True] * len(ids), ids=ids), "accuracy")
    asked, reworded = a.assign(prompt_hash="1"), a.assign(prompt_hash=["1", "2"])
    with pytest.raises(LopError, match="1 questions were asked in other words, first s1"):
        paired(asked, reworded, "accuracy")
    with pytest.raises(LopError, match="metric 'bleu': expected one of accuracy"):
        paired(a, a, "bleu")


def test_broken_answers_are_named(tmp_path):
    (tmp_path / "lop_vqa.parquet").write_bytes(b"\x08")
    with pytest.raises(LopError, match="cannot read answers"):
        read_answers(tmp_path, "lop_vqa")
    pd.DataFrame({"id": ["a"]}).to_parquet(tmp_path / "lop_vqa.parquet")
    with pytest.raises(LopError, match="no column answer, category, correct, prediction"):
        read_answers(tmp_path, "lop_vqa")
