"""MMBench: multiple choice, scored under every rotation of the choices (arXiv 2307.06281).

Columns, as in the hub's lmms-lab/MMBench: index, question, hint, answer (a letter), A, B, C, D
(the last may be empty), category, image. `easyvqa_mmbench` has the same columns, of easy-VQA's
published questions; see lop/reference/easyvqa_benchmarks.py. It is not MMBench.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from datasets import Dataset

from lop.data.rows import text
from lop.errors import LopError
from lop.evaluation.tasks import scoring
from lop.evaluation.tasks.scoring import ROTATION
from lop.evaluation.tasks.tables import Form, Row, gold, needed, place, plain, read_table, seen

LETTERS = "ABCD"
TEXTS, IMAGES = ("index", "question", "hint", "answer", *LETTERS, "category"), ("image",)
COLUMNS = TEXTS + IMAGES
SCORER = scoring.MMBENCH


def load(**metadata: Any) -> dict[str, Dataset]:
    """The English dev split of the data, with all rotations, as the split `test`."""
    return _turned(place("mmbench", metadata))


def load_easyvqa(**metadata: Any) -> dict[str, Dataset]:
    """The questions that `prepare` wrote, with all rotations, as the split `test`."""
    return _turned(place("easyvqa_mmbench", metadata))


def _turned(source: str) -> dict[str, Dataset]:
    return {"test": with_rotations(read_table(source, Form(TEXTS, IMAGES, _clean), "dev", "en"))}


def _clean(row: Row) -> Row:
    index = needed(row, "index")
    if not index.isdecimal():
        raise LopError(f"index {index!r}: expected a whole number")
    cleaned: Row = {name: _given(row[name], name) for name in ("hint", *LETTERS)}
    cleaned |= {name: needed(row, name) for name in ("question", "category")}
    cleaned |= {"index": int(index), "answer": str(gold(row)).strip()}
    target(cleaned)
    return cleaned


def with_rotations(table: Dataset) -> Dataset:
    """The rows and every rotation of their choices, unless the data hold rotations already."""
    if any(index >= ROTATION for index in table["index"]):
        return table
    rows = [turned for doc in table for turned in rotations(doc)]
    return Dataset.from_list(rows, features=table.features)


def rotations(doc: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A question with its choices rotated by 0, 1, … positions, with MMBench's numbers."""
    letters, texts, right = list(lettered(doc)), choices(doc), target(doc)
    for turn in range(len(texts)):
        moved = dict(zip(letters, texts[turn:] + texts[:turn], strict=True))
        # by position, because two choices may have the same text
        answer = letters[(right - turn) % len(letters)]
        yield {**doc, **moved, "answer": answer, "index": doc["index"] + turn * ROTATION}


def lettered(doc: dict[str, Any]) -> dict[str, str]:
    """The choices of a question by letter; any of them may be empty."""
    given = {letter: _given(doc[letter], letter) for letter in LETTERS}
    return {letter: choice for letter, choice in given.items() if choice is not None}


def choices(doc: dict[str, Any]) -> list[str]:
    """The texts of the choices, in order."""
    return list(lettered(doc).values())


def target(doc: dict[str, Any]) -> int:
    """The index of the right choice; LopError if the answer is none of the choices."""
    letters = list(lettered(doc))
    if doc["answer"] not in letters:
        raise LopError(f"MMBench, {doc['index']}: answer {doc['answer']!r} is none of the choices")
    return letters.index(doc["answer"])


def doc_to_text(doc: dict[str, Any]) -> str:
    """Hint, question, lettered choices, and the instruction."""
    lines = [f"{letter}. {choice}" for letter, choice in lettered(doc).items()]
    hint = [doc["hint"]] if doc["hint"] else []
    asked = [*hint, doc["question"].strip(), *lines]
    asked.append("Answer with the option's letter from the choices.")
    return "<image>" + plain("\n".join(asked))


def doc_to_plain_text(doc: dict[str, Any]) -> str:
    """Question and choices, one per line, for models not trained on lettered choices."""
    return "<image>" + plain("\n".join([doc["question"].strip(), *choices(doc)]))


def parse(answer: str, options: Mapping[str, str]) -> str:
    """The letter of `options` that an answer gives, or an empty string.

    It is the only letter among the answer's words; `A` counts only in short answers (elsewhere it
    is an article). Without a letter, it is the only choice whose text is in the answer. Two letters
    or two choices are no answer. Source of the rule: vlmeval/utils/matching_util.py of
    github.com/open-compass/VLMEvalKit; there too, an answer that matches nothing is wrong, unless
    another model is used to match it.
    """
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", answer).split()
    letters = [letter for letter in options if letter in words]
    if letters == ["A"] and len(words) > 3:
        letters = []
    elif len(letters) > 1:
        return ""
    held = [letter for letter, each in options.items() if each.lower() in answer.lower()]
    found = letters or held
    return found[0] if len(found) == 1 else ""


def row(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    """The prediction and whether it is right; the group is the question without rotation.

    `results` are one generated text, or a (log-likelihood, …) for each choice.
    """
    if isinstance(results[0], str):
        prediction = parse(results[0], lettered(doc))
    else:
        likeliest = scoring.best([result[0] for result in results])
        prediction = "" if likeliest is None else list(lettered(doc))[likeliest]
    return {
        "id": str(doc["index"]),
        "group": str(doc["index"] % ROTATION),
        "picture": seen(doc),
        "category": doc["category"],
        "answer": doc["answer"],
        "prediction": prediction,
        "correct": prediction == doc["answer"],
    }


def process_results(doc: dict[str, Any], results: list[Any]) -> dict[str, dict[str, Any]]:
    """The row, under the name of each figure."""
    return dict.fromkeys(FIGURES, row(doc, results))


def _given(cell: Any, column: str) -> str | None:
    """A hint or a choice, or None: published tables have several kinds of empty cells."""
    found = (text(cell, column) or "").strip()
    return None if found in ("", "nan") else found


FIGURES = ("accuracy", "circular")
accuracy, circular = (scoring.aggregate(SCORER, name) for name in FIGURES)
