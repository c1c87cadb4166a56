"""MME: yes/no questions in pairs, one with each answer for every image (arXiv 2306.13394).

Columns, as in the hub's lmms-lab/MME: question_id (names the image), image, question, answer,
category. `easyvqa_mme` has the same columns, of easy-VQA's published questions; see
lop/reference/easyvqa_benchmarks.py. It is not MME.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lop.evaluation.tasks import scoring
from lop.evaluation.tasks.tables import Form, Row, loader, needed, one_of, seen, yes_no

TEXTS, IMAGES = ("question_id", "question", "answer", "category"), ("image",)
COLUMNS = TEXTS + IMAGES
SCORER = scoring.mme(scoring.MME)
EASYVQA_SCORER = scoring.mme(scoring.EASYVQA_MME)


def _of_subtasks(name: str, halves: Mapping[str, tuple[str, ...]]) -> Callable[..., Any]:
    """The loader of a task's data; LopError if they have other subtasks."""
    known = sum(halves.values(), ())

    def clean(row: Row) -> Row:
        texts = {column: needed(row, column) for column in ("question_id", "question")}
        return texts | {"answer": yes_no(row), "category": one_of(row, "category", known)}

    return loader(name, Form(TEXTS, IMAGES, clean), "test")


load = _of_subtasks("mme", scoring.MME)
load_easyvqa = _of_subtasks("easyvqa_mme", scoring.EASYVQA_MME)


def parse(text: str) -> str:
    """`yes`, `no` or `other`, from the first four letters, as in the official calculation.py.

    Source: tools/eval_tool of github.com/BradyFU/Awesome-Multimodal-Large-Language-Models (branch
    Evaluation).
    """
    start = text.strip().lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def row(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    """The prediction and whether it is right; the group is the pair of questions."""
    answer, prediction = yes_no(doc), parse(results[0])
    return {
        "id": f"{doc['question_id']}: {doc['question'].strip()}",
        "group": doc["question_id"],
        "picture": seen(doc),
        "category": doc["category"],
        "answer": answer,
        "prediction": prediction,
        "correct": prediction == answer,
    }


def process_results(doc: dict[str, Any], results: list[Any]) -> dict[str, dict[str, Any]]:
    """The row, under the name of each metric that it counts for."""
    found = row(doc, results)
    all_halves = (scoring.MME, scoring.EASYVQA_MME)
    half = [n for halves in all_halves for n, names in halves.items() if doc["category"] in names]
    return dict.fromkeys(("score", *half, doc["category"]), found)


def total(rows: list[dict[str, Any]]) -> float:
    """The sum of the scores of all subtasks in `rows`; of one subtask, its score."""
    scorer = SCORER if rows[0]["category"] in sum(scoring.MME.values(), ()) else EASYVQA_SCORER
    return scoring.aggregate(scorer, "score")(rows)
