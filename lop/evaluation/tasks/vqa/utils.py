"""Functions of the lm-eval task `lop_vqa`: its samples, their prompts, and its scoring.

The samples come from memory, not through the `datasets` cache: no copies stay on disk, a changed
file is never read from an old copy, and each picture is decoded once.
"""

from __future__ import annotations

from string import ascii_uppercase
from typing import Any

from datasets import Dataset, Features, List, Value
from PIL.Image import Image

from lop.data.matching import matches
from lop.data.pictures import decode
from lop.data.samples import check_answered, document, prompt_text, read_samples
from lop.errors import LopError
from lop.evaluation.tasks.tables import plain

_TEXT = Value("string")
_FEATURES = Features(
    {
        "id": _TEXT,
        "image_id": _TEXT,
        # bytes, not `datasets.Image`, which would decode a picture at every access
        "images": List({"bytes": Value("binary"), "path": _TEXT}),
        "question": _TEXT,
        "choices": List(_TEXT),
        "answer": _TEXT,
        "category": _TEXT,
        "answers": List(_TEXT),
    }
)


def load(samples: str | None = None, **_: Any) -> dict[str, Dataset]:
    """The questions at path `samples` (any format of `read_samples`) as the split `test`.

    Raises LopError if there are none, or if one has no known answer. lm-eval passes all of the
    task's metadata; all except `samples` are ignored.
    """
    if samples is None:
        raise LopError('lop_vqa: no samples; give their path as metadata, {"samples": "<path>"}')
    table = read_samples(samples)
    questions = table[[document(row) is None for row in table.to_dict("records")]]
    if questions.empty:
        raise LopError(f"{samples}: only texts and no question; lop_text reads texts")
    check_answered(questions, "lop_vqa")
    rows = questions[list(_FEATURES)].to_dict("records")
    return {"test": Dataset.from_list(rows, features=_FEATURES)}


def doc_to_text(doc: dict[str, Any]) -> str:
    """A placeholder for each picture, then the question with its choices."""
    return "<image>" * len(doc["images"]) + plain(prompt_text(doc))


def doc_to_image(doc: dict[str, Any]) -> list[Image]:
    """The pictures, in RGB."""
    return [decode(image["bytes"]) for image in doc["images"]]


def right_answers(doc: dict[str, Any]) -> list[str]:
    """The accepted answers; for a lettered choice also its letter, alone and before its text."""
    answers, choices = list(doc["answers"]), doc["choices"] or []
    texts = {choice.strip().lower() for choice in choices}
    letters = [
        form
        for letter, choice in zip(ascii_uppercase, choices, strict=False)
        if choice in answers and letter.lower() not in texts
        for form in (letter, f"{letter}. {choice}")
    ]
    return [*answers, *letters]


def row(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """The prediction and whether it is right; rows of one picture are a group."""
    return {
        "id": doc["id"],
        "group": doc["image_id"],
        "category": doc["category"],
        "answer": doc["answer"],
        "prediction": results[0],
        "correct": matches(results[0], right_answers(doc)),
    }


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """1 if the prediction gives an accepted answer, by `lop.data.matching.matches`."""
    return {"exact_match": float(row(doc, results)["correct"])}
