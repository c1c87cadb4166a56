"""Questions asked in other forms want the same knowledge, and are always drawn alike."""

import re

import pandas as pd
import pytest

from lop.data.forms import FORMS, asked_in
from lop.data.prepare import prepare_samples
from lop.data.samples import COLUMNS, accepted, fingerprint
from lop.errors import LopError

COLOURS = ["red", "green", "blue", "grey", "teal", "pink"]


def table(*rows):
    base = dict.fromkeys(COLUMNS) | {"images": [], "category": "colour", "question": "what colour?"}
    whole = [base | {"id": f"s{i}", "image_id": f"i{i}"} | row for i, row in enumerate(rows)]
    return pd.DataFrame(whole, columns=list(COLUMNS), dtype=object)


QUESTIONS = table(*({"answer": COLOURS[i % 6], "answers": [COLOURS[i % 6]]} for i in range(60)))


def test_lettered_choices_hold_the_answer_and_others_of_the_category():
    other = table({"id": "x", "answer": "circle", "category": "shape"})
    asked = asked_in(pd.concat([QUESTIONS, other], ignore_index=True), ["choices"], 0)
    letters = []
    for before, row in zip(QUESTIONS.to_dict("records"), asked.to_dict("records"), strict=False):
        first, *lines, order = row["question"].splitlines()
        assert first == "what colour?"
        assert order == "Answer with the option's letter from the choices."
        shown = dict(line.split(". ") for line in lines)
        assert list(shown) == list("ABCD")
        assert len(set(shown.values())) == 4
        assert set(shown.values()) <= set(COLOURS)
        assert shown[row["answer"]] == before["answer"]
        assert accepted(row) == [row["answer"]]
        letters.append(row["answer"])
    assert set(letters) == set("ABCD"), "the right one has no place of its own"
    assert asked.iloc[-1].to_dict() == other.iloc[0].to_dict(), "no other shape is known"


def test_listed_choices_want_a_text():
    for row in asked_in(QUESTIONS, ["listed"], 0).to_dict("records"):
        first, *texts = row["question"].splitlines()
        assert first == "what colour?"
        assert len(set(texts)) == 4
        assert row["answer"] in texts


def test_yes_and_no_are_about_as_frequent_and_true():
    said = []
    asked = asked_in(QUESTIONS, ["yes_no"], 0).to_dict("records")
    for before, row in zip(QUESTIONS.to_dict("records"), asked, strict=True):
        told = re.fullmatch(
            r'what colour\? Is it "(\w+)"\? Please answer yes or no\.', row["question"]
        )
        assert told[1] in COLOURS
        assert row["answer"] == ("yes" if told[1] == before["answer"] else "no")
        said.append(row["answer"])
    assert 20 < said.count("yes") < 40


def test_forms_are_dealt_equally_and_always_alike():
    forms = ["open", "choices", "yes_no"]
    asked = asked_in(QUESTIONS, forms, 0)
    lettered = asked["question"].str.contains("letter").sum()
    yes_no = asked["question"].str.contains("yes or no").sum()
    assert (lettered, yes_no, (asked["question"] == "what colour?").sum()) == (20, 20, 20)
    assert fingerprint(asked_in(QUESTIONS, forms, 0)) == fingerprint(asked)
    assert fingerprint(asked_in(QUESTIONS, forms, 1)) != fingerprint(asked)
    assert fingerprint(asked_in(QUESTIONS, ["open"], 0)) == fingerprint(QUESTIONS)


def test_a_questions_own_choices_are_used():
    own = table(
        {"choices": ["Red", "green", "blue"], "answer": "red", "answers": ["red"]},
        {"choices": ["red", "green"], "answer": "B", "answers": ["B"]},
    )
    asked = {form: asked_in(own, [form], 0).to_dict("records") for form in FORMS}
    assert asked["choices"][0]["question"].splitlines()[1:4] == ["A. Red", "B. green", "C. blue"]
    assert asked["choices"][0]["answer"] == "A"
    assert asked["listed"][0]["answer"] == "Red"
    for form in FORMS:
        assert asked[form][1] == own.iloc[1].to_dict(), "which choice the letter means is not said"
    assert asked["open"][0] == own.iloc[0].to_dict()


def test_what_cannot_be_asked_otherwise_stays():
    rows = table(
        {"answer": "yes", "category": "any"}, {"answer": "no", "category": "any"},
        {"answer": None, "answers": []}, {"question": "", "text": "a text", "category": "any"},
    )  # fmt: skip
    assert fingerprint(asked_in(rows, ["yes_no"], 0)) == fingerprint(rows)
    assert asked_in(rows, ["choices"], 0)["answer"].tolist()[2:] == [None, None]
    with pytest.raises(LopError, match="form 'song': expected one of open, choices, listed, yes"):
        asked_in(rows, ["song"], 0)


def test_only_calibration_and_reward_are_asked_otherwise():
    sizes = {"calibration": 40, "reward": 40, "validation": 20, "benchmark": 20}
    plain = prepare_samples("reference", 0, sizes)
    asked = prepare_samples("reference", 0, sizes, forms=["open", "listed", "yes_no"])
    for name, before in plain.items():
        same = fingerprint(asked[name]) == fingerprint(before)
        assert same == (name in ("validation", "benchmark"))
        assert asked[name]["id"].tolist() == before["id"].tolist()
        assert asked[name]["image_id"].tolist() == before["image_id"].tolist()
