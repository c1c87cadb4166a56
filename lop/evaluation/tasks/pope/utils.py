"""POPE: yes/no questions on the objects in an image (arXiv 2305.10355).

Columns, as in the hub's lmms-lab/POPE: question_id, question, answer, image_source (names the
image), image, category (random, popular or adversarial). `easyvqa_pope` has the same columns, of
what easy-VQA's pictures show; see lop/reference/easyvqa_benchmarks.py. It is not POPE.
"""

from __future__ import annotations

from typing import Any

from lop.evaluation.tasks import scoring
from lop.evaluation.tasks.tables import Form, Row, loader, needed, one_of, yes_no

TEXTS, IMAGES = ("question_id", "question", "answer", "image_source", "category"), ("image",)
COLUMNS = TEXTS + IMAGES
SCORER = scoring.POPE_SCORER


def _clean(row: Row) -> Row:
    texts = {column: needed(row, column) for column in ("question_id", "question", "image_source")}
    return texts | {"answer": yes_no(row), "category": one_of(row, "category", scoring.POPE)}


_FORM = Form(TEXTS, IMAGES, _clean)
load, load_easyvqa = (loader(name, _FORM, "test") for name in ("pope", "easyvqa_pope"))


def parse(text: str) -> str:
    """`no` if the first sentence has the word No, no or not, else `yes`, also for an empty answer.

    Source: evaluate.py of github.com/AoiDragon/POPE. Line breaks count as spaces here.
    """
    words = text.split(".")[0].replace(",", "").split()
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def row(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    """The prediction and whether it is right; the group is the image."""
    answer, prediction = yes_no(doc), parse(results[0])
    return {
        "id": f"{doc['category']}-{doc['question_id']}",
        "group": doc["image_source"],
        "category": doc["category"],
        "answer": answer,
        "prediction": prediction,
        "correct": prediction == answer,
    }


def process_results(doc: dict[str, Any], results: list[Any]) -> dict[str, dict[str, Any]]:
    """The row, under the name of each metric that it counts for."""
    found = row(doc, results)
    both = [*FIGURES, *(f"{name}_{doc['category']}" for name in OF_SPLITS)]
    return dict.fromkeys(both, found)


FIGURES = ("accuracy", "precision", "recall", "f1", "yes_ratio")
OF_SPLITS = ("accuracy", "f1", "yes_ratio")
accuracy, precision, recall, f1, yes_ratio = (scoring.aggregate(SCORER, n) for n in FIGURES)
