"""Rewrites questions in other forms: with lettered or listed choices, or as yes/no questions.

A plan that is good for one form of question may be bad for another. Wrong choices are answers to
other samples of the same category. The draw depends only on the seed and the sample's id.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np
import pandas as pd

from lop.data.samples import accepted, document, label
from lop.errors import LopError

WRONG = 3  # most wrong choices
YES_NO = {"yes", "no"}
Sample = dict[Any, Any]


def asked_in(samples: pd.DataFrame, forms: Sequence[str], seed: int) -> pd.DataFrame:
    """The samples, each in one of `forms`; the forms are equally frequent and randomly assigned.

    `open` is the question without change. `choices` adds lettered choices, and the answer is a
    letter; `listed` adds the choices, one per line, and the answer is one of them; `yes_no` asks
    whether a choice is right, which is true half of the time. Questions keep their own choices. Not
    changed are texts, questions without a known answer, questions without a wrong choice and, in
    the form `yes_no`, questions whose answer is yes or no. Raises LopError for an unknown form.
    """
    if unknown := [form for form in forms if form not in FORMS]:
        raise LopError(f"form {unknown[0]!r}: expected one of {', '.join(FORMS)}")
    rows = samples.to_dict("records")
    known = _answers(rows)
    deal = np.random.default_rng(seed).permutation(len(rows)) % len(forms)
    asked = []
    for row, number in zip(rows, deal, strict=True):
        rng = np.random.default_rng([seed, zlib.crc32(row["id"].encode())])
        wrong = _wrong(row, known.get(row["category"], []))
        form = FORMS[forms[number]]
        asked.append(form(row, wrong, rng) if label(row) is not None and wrong else row)
    return pd.DataFrame(asked, columns=samples.columns, index=samples.index, dtype=object)


def _answers(rows: Sequence[Sample]) -> dict[str, list[str]]:
    """The known answers of each category, sorted."""
    found: dict[str, set[str]] = {}
    for row in rows:
        if document(row) is None and label(row) is not None:
            found.setdefault(row["category"], set()).add(row["answer"])
    return {category: sorted(answers) for category, answers in found.items()}


def _own(row: Sample) -> list[str]:
    """The sample's own choices."""
    return [] if row["choices"] is None else list(row["choices"])


def _is_right(row: Sample, text: str) -> bool:
    return text.strip().lower() in {answer.strip().lower() for answer in accepted(row)}


def _right(row: Sample) -> str:
    """The right answer, as written in the sample's own choices."""
    return next((text for text in _own(row) if _is_right(row, text)), row["answer"])


def _wrong(row: Sample, known: Sequence[str]) -> list[str]:
    """Wrong answers for a sample: its other choices, or answers to other samples.

    Empty if the sample has choices and the answer is none of them, such as a letter.
    """
    own = _own(row)
    if own and not any(_is_right(row, text) for text in own):
        return []
    return [text for text in own or known if not _is_right(row, text)]


def _open(row: Sample, wrong: Sequence[str], rng: np.random.Generator) -> Sample:
    return row


def _choices(row: Sample, wrong: Sequence[str], rng: np.random.Generator) -> Sample:
    texts = _shown(row, wrong, rng)
    letter = ascii_uppercase[texts.index(_right(row))]
    lines = [f"{ascii_uppercase[i]}. {text}" for i, text in enumerate(texts)]
    order = "Answer with the option's letter from the choices."
    return _as(row, "\n".join([row["question"], *lines, order]), letter)


def _listed(row: Sample, wrong: Sequence[str], rng: np.random.Generator) -> Sample:
    return _as(row, "\n".join([row["question"], *_shown(row, wrong, rng)]), _right(row))


def _yes_no(row: Sample, wrong: Sequence[str], rng: np.random.Generator) -> Sample:
    if row["answer"].strip().lower() in YES_NO:
        return row
    right = bool(rng.integers(2))
    told = _right(row) if right else wrong[int(rng.integers(len(wrong)))]
    question = f'{row["question"]} Is it "{told}"? Please answer yes or no.'
    return _as(row, question, "yes" if right else "no")


def _shown(row: Sample, wrong: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The sample's own choices, or the right answer and some wrong ones in random order."""
    if own := _own(row):
        return own
    texts = [row["answer"], *(wrong[i] for i in rng.permutation(len(wrong))[:WRONG])]
    return [texts[i] for i in rng.permutation(len(texts))]


def _as(row: Sample, question: str, answer: str) -> Sample:
    """The sample with another question, whose text includes the choices."""
    return row | {"question": question, "choices": None, "answer": answer, "answers": [answer]}


FORMS: Mapping[str, Callable[[Sample, Sequence[str], np.random.Generator], Sample]] = {
    "open": _open,
    "choices": _choices,
    "listed": _listed,
    "yes_no": _yes_no,
}
