"""POPE: yes/no questions on what is in an image (arXiv 2305.10355).

Columns, as in the hub's lmms-lab/POPE: question_id, question, answer, image_source (names the
image), image, category (random, popular or adversarial). `easyvqa_pope` has the same columns, of
what easy-VQA's pictures show; see lop/tasks/easyvqa_benchmarks.py. It is not POPE.
"""

from __future__ import annotations

from typing import Any

from lop.errors import LopError
from lop.tasks import scoring
from lop.tasks.tables import loader

COLUMNS = ("question_id", "question", "answer", "image_source", "image", "category")
SCORER = scoring.POPE_SCORER


load, load_easyvqa = (loader(name, COLUMNS, "test") for name in ("pope", "easyvqa_pope"))


def parse(text: str) -> str:
    """`no` if the first sentence holds the word No, no or not, else `yes`, even of an empty one.

    Source: evaluate.py of github.com/AoiDragon/POPE. Line breaks count as spaces here.
    """
    words = text.split(".")[0].replace(",", "").split()
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def row(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    """What was answered, and whether that is right; the group is the image."""
    answer, prediction = doc["answer"].strip().lower(), parse(results[0])
    if answer not in ("yes", "no"):
        raise LopError(f"POPE, {doc['question_id']}: answer {doc['answer']!r}, expected yes or no")
    return {
        "id": f"{doc['category']}-{doc['question_id']}",
        "group": str(doc["image_source"]),
        "category": doc["category"],
        "answer": answer,
        "prediction": prediction,
        "correct": prediction == answer,
    }


def process_results(doc: dict[str, Any], results: list[Any]) -> dict[str, dict[str, Any]]:
    """The row, under the name of each figure that it counts for."""
    found = row(doc, results)
    both = [*FIGURES, *(f"{name}_{doc['category']}" for name in OF_SPLITS)]
    return dict.fromkeys(both, found)


FIGURES = ("accuracy", "precision", "recall", "f1", "yes_ratio")
OF_SPLITS = ("accuracy", "f1", "yes_ratio")
accuracy, precision, recall, f1, yes_ratio = (scoring.aggregate(SCORER, n) for n in FIGURES)
