"""MMBench: multiple choice, judged under every rotation of the choices (arXiv 2307.06281).

Columns, as in the hub's lmms-lab/MMBench: index, question, hint, answer (a letter), A, B, C, D
(the last may be empty), category, image. `easyvqa_mmbench` has the same columns, of easy-VQA's
published questions; see lop/tasks/easyvqa_benchmarks.py. It is not MMBench.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from datasets import Dataset

from lop.errors import LopError
from lop.tasks import scoring
from lop.tasks.scoring import ROTATION
from lop.tasks.tables import place, read_table

LETTERS = "ABCD"
COLUMNS = ("index", "question", "hint", "answer", *LETTERS, "category", "image")
SCORER = scoring.MMBENCH


def load(**metadata: Any) -> dict[str, Dataset]:
    """The English dev split of the data, with all rotations, as the split `test`."""
    return _turned(place("mmbench", metadata))


def load_easyvqa(**metadata: Any) -> dict[str, Dataset]:
    """The questions that `prepare` wrote, with all rotations, as the split `test`."""
    return _turned(place("easyvqa_mmbench", metadata))


def _turned(source: str) -> dict[str, Dataset]:
    return {"test": with_rotations(read_table(source, COLUMNS, "dev", "en"))}


def with_rotations(table: Dataset) -> Dataset:
    """The rows and every rotation of their choices, unless the data hold rotations already."""
    table = table.select_columns(list(COLUMNS))
    if any(index >= ROTATION for index in table["index"]):
        return table
    rows = [turned for doc in table for turned in rotations(doc)]
    return Dataset.from_list(rows, features=table.features)


def rotations(doc: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A question with its choices moved up by 0, 1, … places, numbered as MMBench numbers them."""
    texts = choices(doc)
    right = texts[target(doc)]
    for turn in range(len(texts)):
        turned = texts[turn:] + texts[:turn]
        moved = dict(zip(LETTERS, turned, strict=False))
        answer = LETTERS[turned.index(right)]
        yield {**doc, **moved, "answer": answer, "index": doc["index"] + turn * ROTATION}


def choices(doc: dict[str, Any]) -> list[str]:
    """The texts of the choices, in order; an empty one ends the list."""
    texts: list[str] = []
    for letter in LETTERS:
        if not _given(doc[letter]):
            break
        texts.append(str(doc[letter]).strip())
    return texts


def target(doc: dict[str, Any]) -> int:
    """Which choice is right; LopError when the answer is none of them."""
    place = LETTERS.find(str(doc["answer"]).strip() or "?")
    if not 0 <= place < len(choices(doc)):
        raise LopError(f"MMBench, {doc['index']}: answer {doc['answer']!r} is none of the choices")
    return place


def doc_to_text(doc: dict[str, Any]) -> str:
    """Hint, question, lettered choices, and what to answer."""
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, choices(doc), strict=False)]
    hint = [str(doc["hint"]).strip()] if _given(doc["hint"]) else []
    asked = [*hint, doc["question"].strip(), *lines]
    return "<image>" + "\n".join([*asked, "Answer with the option's letter from the choices."])


def doc_to_plain_text(doc: dict[str, Any]) -> str:
    """Question and choices, a line each, for models that know no letters."""
    return "<image>" + "\n".join([doc["question"].strip(), *choices(doc)])


def parse(text: str, texts: list[str]) -> str:
    """The letter that an answer means, or an empty string.

    The one letter among its words, where `A` alone counts in short answers only (else it is an
    article); without a letter, the one choice whose text it holds. Two of either are no answer.
    Source of the rule: vlmeval/utils/matching_util.py of github.com/open-compass/VLMEvalKit;
    there, too, an answer that matches nothing is wrong when no other model is asked to match it.
    """
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", text).split()
    letters = [letter for letter in LETTERS[: len(texts)] if letter in words]
    if letters == ["A"] and len(words) > 3:
        letters = []
    elif len(letters) > 1:
        return ""
    held = [LETTERS[i] for i, each in enumerate(texts) if each.lower() in text.lower()]
    found = letters or held
    return found[0] if len(found) == 1 else ""


def row(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    """What was answered, and whether that is right; the group is the question, unrotated.

    `results` are one generated text, or a (log-likelihood, …) for each choice.
    """
    if isinstance(results[0], str):
        prediction = parse(results[0], choices(doc))
    else:
        likeliest = scoring.best([result[0] for result in results])
        prediction = "" if likeliest is None else LETTERS[likeliest]
    return {
        "id": str(doc["index"]),
        "group": str(doc["index"] % ROTATION),
        "category": doc["category"],
        "answer": doc["answer"],
        "prediction": prediction,
        "correct": prediction == LETTERS[target(doc)],
    }


def process_results(doc: dict[str, Any], results: list[Any]) -> dict[str, dict[str, Any]]:
    """The row, under the name of each figure."""
    return dict.fromkeys(FIGURES, row(doc, results))


def _given(value: Any) -> bool:
    """Published tables leave a cell empty in several ways."""
    return value is not None and value == value and str(value).strip() not in ("", "nan")


FIGURES = ("accuracy", "circular")
accuracy, circular = (scoring.aggregate(SCORER, name) for name in FIGURES)
