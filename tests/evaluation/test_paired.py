"""Paired differences against hand-worked cases, and against resampling."""

import math

import numpy as np
import pandas as pd
import pytest
from evaluated import benchmark_answers

from lop.errors import LopError
from lop.evaluation import paired as pairs
from lop.evaluation.paired import check_pairs, read_answers
from lop.evaluation.tasks.benchmarks import BENCHMARKS
from lop.evaluation.tasks.scoring import ACCURACY, score


def table(correct, groups=None, answer="yes", category="existence", ids=None):
    n = len(correct)
    ids = ids or [f"s{i}" for i in range(n)]
    columns = {"id": ids, "group": groups or ids, "category": category, "answer": answer}
    return pd.DataFrame(columns | {"prediction": "?", "correct": correct})


def paired(scorer, a, b, metric=None):
    check_pairs(a, b)
    return pairs.paired(scorer, scorer.clusters(a), scorer.clusters(b), metric or scorer.primary)


def test_accuracy_by_hand():
    a, b = table([True, True, True, False]), table([True, False, False, False])
    # differences 0, 1, 1, 0: mean 1/2, variance 1/3, standard error √(1/3 / 4)
    difference, error = paired(ACCURACY, a, b.sample(frac=1, random_state=1))
    assert difference == 0.5
    assert error == pytest.approx(math.sqrt(1 / 12))
    assert paired(ACCURACY, a, a) == (0, 0)
    assert math.isnan(paired(ACCURACY, a.head(1), b.head(1))[1])


def test_questions_on_one_image_are_no_independent_evidence():
    a, b = table([True] * 6 + [False] * 2), table([True] * 4 + [False] * 4)
    groups = ["x", "x", "y", "y", "z", "z", "w", "w"]
    alone = paired(ACCURACY, a, b)
    together = paired(ACCURACY, a.assign(group=groups), b.assign(group=groups))
    assert together[0] == alone[0] == 0.25
    # differences by group 0, 0, 1, 0: standard error √(1/4 / 4)
    assert together[1] == pytest.approx(0.25)
    assert together[1] > alone[1]


def test_the_error_of_a_score_by_hand():
    a, b = (benchmark_answers("easyvqa_mme", right, count=400) for right in (0.9, 0.7))
    a, b = (side[side["category"] == "colour"] for side in (a, b))
    # 100 points for the share right of an image's two questions, and 100 if both are
    by_image = [side.groupby("group")["correct"].agg(["mean", "all"]) for side in (a, b)]
    apart = 100 * (by_image[0].astype(float) - by_image[1]).sum(axis=1)
    scorer = BENCHMARKS["easyvqa_mme"].scorer
    expected = (pytest.approx(apart.mean()), pytest.approx(apart.sem()))
    assert paired(scorer, a, b.sample(frac=1, random_state=3)) == expected


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("easyvqa_mmmu", "accuracy"),
        ("easyvqa_mmbench", "circular"),
        ("easyvqa_mme", "perception"),
        ("easyvqa_pope", "f1"),
    ],
)
def test_the_error_is_that_of_a_bootstrap_over_groups(task, metric):
    scorer = BENCHMARKS[task].scorer
    a, b = (benchmark_answers(task, right, count=400) for right in (0.9, 0.7))
    difference, error = paired(scorer, a, b, metric)
    rng, sides = np.random.default_rng(0), (scorer.clusters(a), scorer.clusters(b))
    drawn = []
    for _ in range(500):
        chosen = rng.integers(len(sides[0]), size=len(sides[0]))
        x, y = (scorer.figure(side.iloc[chosen].sum(), metric) for side in sides)
        drawn.append(x - y)
    values = [score(scorer, side)[metric]["value"] for side in (a, b)]
    assert difference == pytest.approx(values[0] - values[1])
    assert error == pytest.approx(np.std(drawn), rel=0.2)


def test_what_cannot_be_paired_is_named():
    a = table([True, False])
    for ids in (["s0", "x"], ["s0", "s0"], ["s0", "s1", "s2"]):
        with pytest.raises(LopError, match="cannot pair"):
            paired(ACCURACY, a, table([True] * len(ids), ids=ids))
    asked, reworded = a.assign(prompt_hash="1"), a.assign(prompt_hash=["1", "2"])
    with pytest.raises(LopError, match="1 questions have different prompts, first s1"):
        paired(ACCURACY, asked, reworded)
    with pytest.raises(LopError, match="metric 'bleu': expected one of accuracy"):
        paired(ACCURACY, a, a, "bleu")


def test_broken_answers_are_named(tmp_path):
    (tmp_path / "lop_vqa.parquet").write_bytes(b"\x08")
    with pytest.raises(LopError, match="cannot read answers"):
        read_answers(tmp_path, "lop_vqa")
    pd.DataFrame({"id": ["a"]}).to_parquet(tmp_path / "lop_vqa.parquet")
    with pytest.raises(LopError, match="no column answer, category, correct, prediction"):
        read_answers(tmp_path, "lop_vqa")
    table(["True", "False"]).to_parquet(tmp_path / "lop_vqa.parquet")
    with pytest.raises(LopError, match="correct holds .*, expected true or false"):
        read_answers(tmp_path, "lop_vqa")
