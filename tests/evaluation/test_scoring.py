"""Official figures against cases worked by hand, and errors against what they must be."""

import math

import numpy as np
import pandas as pd
import pytest

from lop.errors import LopError
from lop.evaluation.tasks import scoring
from lop.evaluation.tasks.scoring import ACCURACY, MMBENCH, POPE_SCORER, best, score

MME = scoring.mme(scoring.MME)


def rows(*cases):
    """A row a case: (group, category, answer, prediction)."""
    columns = ["group", "category", "answer", "prediction"]
    table = pd.DataFrame(cases, columns=columns).astype(str)
    table["id"] = [f"q{i}" for i in range(len(table))]
    return table.assign(correct=table["answer"] == table["prediction"])


def values(scorer, table):
    return {name: figure["value"] for name, figure in score(scorer, table).items()}


def test_mme_by_hand():
    table = rows(
        ("a", "existence", "yes", "yes"), ("a", "existence", "no", "no"),
        ("b", "existence", "yes", "yes"), ("b", "existence", "no", "yes"),
        ("c", "existence", "yes", "other"), ("c", "existence", "no", "other"),
        ("d", "OCR", "yes", "yes"), ("d", "OCR", "no", "no"),
        ("e", "code_reasoning", "yes", "no"), ("e", "code_reasoning", "no", "no"),
    )  # fmt: skip
    found = values(MME, table)
    # existence: 3 of 6 questions, 1 of 3 images: 50 + 33.3; OCR: all; code_reasoning: 50 + 0
    assert found["existence"] == pytest.approx(50 + 100 / 3)
    assert found["OCR"] == 200
    assert found["perception"] == pytest.approx(50 + 100 / 3 + 200)
    assert found["cognition"] == found["code_reasoning"] == 50
    assert found["score"] == pytest.approx(found["perception"] + 50)
    assert found["accuracy"] == 0.6
    assert found["color"] == 0


def test_mme_ceilings_are_the_official_ones():
    names = [name for half in scoring.MME.values() for name in half]
    table = rows(*((f"{n}/1", n, a, a) for n in names for a in ("yes", "no")))
    found = values(MME, table)
    assert (found["perception"], found["cognition"], len(names)) == (2000, 800, 14)


def test_an_image_with_one_question_missing_is_never_right_twice():
    table = rows(
        ("a", "color", "yes", "yes"), ("a", "color", "no", "no"), ("b", "color", "yes", "yes")
    )
    assert values(MME, table)["color"] == 100 + 100 * 1 / 2
    thrice = rows(*[("a", "color", "yes", "yes")] * 3)
    assert values(MME, thrice)["color"] == 100


def test_the_same_image_in_two_subtasks_is_two_pairs():
    table = rows(
        ("a", "color", "yes", "yes"), ("a", "color", "no", "no"),
        ("a", "count", "yes", "no"), ("a", "count", "no", "no"),
    )  # fmt: skip
    found = values(MME, table)
    assert (found["color"], found["count"]) == (200, 50)


def test_pope_by_hand_with_an_unequal_split():
    table = rows(
        ("i", "random", "yes", "yes"), ("i", "random", "yes", "yes"), ("j", "random", "yes", "no"),
        ("j", "random", "no", "yes"), ("k", "adversarial", "no", "no"),
    )  # fmt: skip
    found = values(POPE_SCORER, table)
    # tp 2, fp 1, tn 1, fn 1
    assert found["accuracy"] == 3 / 5
    assert found["precision"] == found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["yes_ratio"] == 3 / 5
    assert found["yes_ratio_random"] == 3 / 4
    # only true negatives: nothing is said to be there, and nothing is
    assert (found["accuracy_adversarial"], found["f1_adversarial"]) == (1, 0)
    assert found["accuracy_popular"] == 0


def test_mmbench_by_hand():
    table = rows(
        ("1", "x", "A", "A"), ("1", "x", "B", "B"), ("1", "x", "C", "C"),  # right in all turns
        ("2", "x", "A", "A"), ("2", "x", "B", "A"),  # right only as first asked: always A
        ("3", "x", "A", ""), ("3", "x", "B", "B"),  # no answer at first
    )  # fmt: skip
    table["id"] = ["1", "1000001", "2000001", "2", "1000002", "3", "1000003"]
    found = values(MMBENCH, table)
    assert found == {"accuracy": pytest.approx(2 / 3), "circular": pytest.approx(1 / 3)}


def test_the_likeliest_choice_and_ties():
    assert best([-3.0, -1.0, -2.0]) == 1
    assert best([-1.0, -1.0, -2.0]) is None
    assert best([-2.0, -2.0, -1.0]) == 2
    assert best([math.nan, -1.0]) is None


def drawn(scorer, count, seed=0):
    """A table of `count` MME images or samples answered at random."""
    rng = np.random.default_rng(seed)
    cases = []
    for i in range(count):
        for answer in ("yes", "no"):
            cases.append((f"i{i}", "color", answer, answer if rng.random() < 0.8 else "other"))
    return rows(*cases)


def test_standard_errors():
    table = drawn(MME, 300)
    alone = score(ACCURACY, table.assign(group=table["id"]))["accuracy"]
    assert alone["stderr"] == pytest.approx(table["correct"].astype(float).sem())
    # two questions an image: the error is that of the mean of the images' means
    means = table.groupby("group")["correct"].mean()
    assert score(ACCURACY, table)["accuracy"]["stderr"] == pytest.approx(means.sem())
    assert scoring.accuracy_error(table) == pytest.approx(means.sem())
    # the score's error: of the mean of each image's share right plus its pair
    by_image = table.groupby("group")["correct"].agg(["mean", "all"]).astype(float).sum(axis=1)
    found = score(MME, table.sample(frac=1, random_state=0))
    assert found["color"]["stderr"] == pytest.approx(100 * by_image.sem())
    assert score(MME, drawn(MME, 1))["score"]["stderr"] is None
    with pytest.raises(LopError, match="no answers"):
        score(MME, table.head(0))


def uneven(count):
    """Questions about `count` pictures, one to seven each, as hard as their picture is."""
    rng = np.random.default_rng(5)
    hardness = rng.uniform(0.2, 1, count)
    pictures = np.repeat(np.arange(count), rng.integers(1, 8, count))
    right = rng.random(len(pictures)) < hardness[pictures]
    table = rows(*(("", "x", "yes", "yes" if one else "no") for one in right))
    return table.assign(group=table["id"], picture=[f"p{i}" for i in pictures])


def test_the_error_is_that_of_a_bootstrap_over_pictures():
    table = uneven(200)
    by_picture = table.groupby("picture")["correct"].agg(["sum", "size"]).to_numpy(float)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(4000):
        right, asked = by_picture[rng.integers(200, size=200)].sum(axis=0)
        drawn.append(right / asked)
    error = score(ACCURACY, table)["accuracy"]["stderr"]
    assert error == pytest.approx(np.std(drawn), rel=0.05)
    assert error > 1.15 * table["correct"].astype(float).sem(), "more than of single questions"


def test_rotations_count_with_their_picture():
    table = rows(*((f"{i}", "x", "A", "AB"[i % 3 == 0]) for i in range(12)))
    table["id"] = table["group"]
    alone = score(MMBENCH, table)["circular"]["stderr"]
    two = table.assign(picture=[f"p{i // 2}" for i in range(12)])
    shared = score(MMBENCH, two)["circular"]["stderr"]
    assert alone == pytest.approx(table["correct"].astype(float).sem())
    assert shared == pytest.approx(two.groupby("picture")["correct"].mean().sem())


def test_unknown_categories_are_named():
    with pytest.raises(LopError, match="MME has no subtask 'smell'"):
        score(MME, rows(("a", "smell", "yes", "yes")))
    with pytest.raises(LopError, match="POPE has no split 'smell'"):
        score(POPE_SCORER, rows(("a", "smell", "yes", "yes")))
