"""MMMU: questions on college subjects, multiple choice or open, with up to seven images.

Prompts and scoring are lm-eval's own (lm_eval.tasks.mmmu, after github.com/MMMU-Benchmark/MMMU,
arXiv 2311.16502). Columns, as in the hub's MMMU/MMMU: id (split_Subject_number), question, options
(a Python list as text), answer, image_1 … image_7, question_type. `easyvqa_mmmu` has the same
columns; see lop/reference/easyvqa_benchmarks.py. It is not MMMU.
"""

from __future__ import annotations

import ast
import random
import re
import zlib
from pathlib import Path
from typing import Any

from datasets import Dataset
from lm_eval.tasks.mmmu import utils as upstream
from PIL.Image import Image

from lop.data.rows import shown, texts
from lop.errors import LopError
from lop.evaluation.tasks import scoring
from lop.evaluation.tasks.tables import (
    Form,
    Row,
    gold,
    joined,
    needed,
    one_of,
    picture,
    place,
    plain,
    read_table,
    seen,
)

TEXTS = ("id", "question", "options", "answer", "question_type")
IMAGES = tuple(f"image_{i}" for i in range(1, 8))
COLUMNS = TEXTS + IMAGES
LETTERS = "ABCDEFGHI"
CHOICE, OPEN = "multiple-choice", "open"
SUBJECTS = (
    "Accounting", "Agriculture", "Architecture_and_Engineering", "Art", "Art_Theory",
    "Basic_Medical_Science", "Biology", "Chemistry", "Clinical_Medicine", "Computer_Science",
    "Design", "Diagnostics_and_Laboratory_Medicine", "Economics", "Electronics",
    "Energy_and_Power", "Finance", "Geography", "History", "Literature", "Manage", "Marketing",
    "Materials", "Math", "Mechanical_Engineering", "Music", "Pharmacy", "Physics", "Psychology",
    "Public_Health", "Sociology",
)  # fmt: skip


def load(**metadata: Any) -> dict[str, Dataset]:
    """The validation split of the data, all subjects, as the split `test`."""
    source = place("mmmu_val", metadata)
    here = Path(source)
    present = [name for name in SUBJECTS if (here / name).is_dir()]
    if here.exists() and not present:
        return {"test": _read(source)}
    return {"test": joined([_read(source, name) for name in present or SUBJECTS])}


def load_choice(**metadata: Any) -> dict[str, Dataset]:
    """The multiple-choice questions that `prepare` wrote, as the split `test`."""
    return _of_type(place("easyvqa_mmmu", metadata), CHOICE)


def load_open(**metadata: Any) -> dict[str, Dataset]:
    """The open questions that `prepare` wrote, as the split `test`."""
    return _of_type(place("easyvqa_mmmu", metadata), OPEN)


def _of_type(source: str, kind: str) -> dict[str, Dataset]:
    table = _read(source)
    return {"test": table.select([i for i, t in enumerate(table["question_type"]) if t == kind])}


def _read(source: str, subject: str | None = None) -> Dataset:
    return read_table(source, Form(TEXTS, IMAGES, _clean, some=True), "validation", subject)


def _clean(row: Row) -> Row:
    """Options and several right answers as lists in text form, as upstream expects them."""
    cleaned = {name: needed(row, name) for name in ("id", "question")}
    cleaned["question_type"] = one_of(row, "question_type", (CHOICE, OPEN))
    if not isinstance(listed := _parsed(row["options"]), list):
        raise LopError(f"options {shown(row['options'])}: expected a list, or the text of one")
    options, answers = texts(listed, "options"), golds({"answer": gold(row)})
    if cleaned["question_type"] == CHOICE and not set(answers) <= set(LETTERS[: len(options)]):
        raise LopError(f"answer {shown(row['answer'])} is none of the {len(options)} options")
    asked = " ".join([cleaned["question"], *options])
    for number in re.findall("<image ([1-7])>", asked):
        if not row[f"image_{number}"]:
            raise LopError(f"the text names <image {number}>, and image_{number} holds no picture")
    return cleaned | {
        "question": plain(cleaned["question"]),
        "options": plain(str(options)),
        "answer": answers[0] if len(answers) == 1 else str(answers),
    }


def _parsed(cell: Any) -> Any:
    """The value of a cell in Python's notation, as published; otherwise the cell itself."""
    try:
        return ast.literal_eval(cell)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return cell


def doc_to_image(doc: dict[str, Any]) -> list[Image]:
    """The pictures in the prompt's order, in RGB; one may occur twice."""
    named = {name: picture(doc, name) for name in IMAGES if doc[name] is not None}
    return upstream.doc_to_image({**doc, **named})


def doc_to_plain_text(doc: dict[str, Any]) -> str:
    """The question alone, for models not trained on letters and instructions."""
    return re.sub("<image [1-7]>", "<image>", doc["question"])


def choices(doc: dict[str, Any]) -> list[str]:
    """The texts of the choices, in order; none of an open question."""
    return ast.literal_eval(doc["options"])


def golds(doc: dict[str, Any]) -> list[str]:
    """The accepted answers: one, or those in a list of texts, or in the text of such a list."""
    parsed = _parsed(doc["answer"])
    several = isinstance(parsed, list) and all(isinstance(one, str) for one in parsed)
    return texts(parsed if several else doc["answer"], "answer")


def target(doc: dict[str, Any]) -> int:
    """The index of the right choice; of the first one if there are several."""
    return LETTERS.index(golds(doc)[0])


def subject(doc: dict[str, Any]) -> str:
    """The subject that a question's id names."""
    return "_".join(doc["id"].split("_")[1:-1])


def row(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    """The prediction and whether it is right.

    `results` are one generated text, or a (log-likelihood, …) for each choice.
    """
    if isinstance(results[0], str):
        prediction, correct = results[0], _judge(doc, results[0])
    else:
        likeliest = scoring.best([result[0] for result in results])
        prediction = "" if likeliest is None else LETTERS[likeliest]
        correct = upstream.eval_multi_choice(golds(doc), prediction)
    return {
        "id": doc["id"],
        "group": doc["id"],
        "picture": seen(doc, IMAGES),
        "category": subject(doc),
        "answer": doc["answer"],
        "prediction": prediction,
        "correct": bool(correct),
    }


def _judge(doc: dict[str, Any], text: str) -> bool:
    """Upstream's scoring. If an answer names no choice, it guesses; here the guess depends on the
    question's id."""
    before = random.getstate()
    random.seed(zlib.crc32(doc["id"].encode()))
    try:
        return upstream.process_results({**doc, "answer": golds(doc)}, [text])["acc"] == 1
    finally:
        random.setstate(before)


def process_results(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """1 if the answer is right, else 0."""
    return {"acc": float(row(doc, results)["correct"])}
