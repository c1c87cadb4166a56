"""Reads the questions of answers by id, with their pictures, from a benchmark's data.

Ids are made as in the tasks: of image and question for MME, of split and number for POPE, and for
MMBench a number that includes the rotation of the choices.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lop.data.rows import text
from lop.data.samples import read_samples
from lop.errors import LopError
from lop.evaluation.comparison import TASK
from lop.evaluation.tasks.scoring import ROTATION
from lop.files import reading

LETTERS = "ABCD"
Row = Mapping[str, Any]


def samples_file(samples: Path, task: str) -> Path:
    """The file with a task's questions, in the directory that `prepare` wrote."""
    return samples / ("benchmark.parquet" if task == TASK else f"tasks/{task}.parquet")


def questions(path: Path, task: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    """For each id: images, question, choices (may be None) and answer, as in a table of samples.

    `path` is a Parquet file or a folder of them, with the columns of the task's benchmark. Raises
    LopError with the file name if an id is missing.
    """
    kind = task.removeprefix("easyvqa_").removesuffix("_val")
    if kind in _ROWS:
        rows = _read(path).to_dict("records")
        found = dict(_question(path, i, kind, row) for i, row in enumerate(rows))
    else:
        found = {str(row["id"]): row for row in read_samples(path).to_dict("records")}
    chosen = [found.get(i) or _rotated(found, i) for i in ids]
    if missing := [i for i, one in zip(ids, chosen, strict=True) if one is None]:
        raise LopError(
            f"{path}: no sample {missing[0]} ({len(missing)} of {len(ids)} ids are missing); "
            "expected the samples that the models answered"
        )
    return [one for one in chosen if one]


def _read(path: Path) -> pd.DataFrame:
    with reading(path, "the questions"):
        return pd.read_parquet(path)


def _question(path: Path, number: int, kind: str, row: Row) -> tuple[str, dict[str, Any]]:
    try:
        return _ROWS[kind](row)
    except (KeyError, TypeError, ValueError, AttributeError, SyntaxError) as error:
        raise LopError(f"{path}, row {number}: no question of {kind}: {error!r}") from error


def _sample(row: Row, question: str, choices: Sequence[str], answer: str) -> dict[str, Any]:
    columns = [row[name] for name in sorted(row) if name == "image" or name.startswith("image_")]
    images = [image for image in columns if isinstance(image, dict) and image.get("bytes")]
    choices = list(choices) or None  # type: ignore[assignment]
    return {"images": images, "question": question, "choices": choices, "answer": answer}


def _mme(row: Row) -> tuple[str, dict[str, Any]]:
    question = row["question"].strip()
    return f"{row['question_id']}: {question}", _sample(row, question, (), row["answer"])


def _pope(row: Row) -> tuple[str, dict[str, Any]]:
    sample = _sample(row, row["question"].strip(), (), row["answer"])
    return f"{row['category']}-{row['question_id']}", sample


def _mmbench(row: Row) -> tuple[str, dict[str, Any]]:
    # an empty choice before others keeps its letter
    choices = [text(row[letter], letter) or "" for letter in LETTERS]
    while choices and not choices[-1]:
        choices.pop()
    return str(row["index"]), _sample(row, row["question"].strip(), choices, row["answer"])


def _mmmu(row: Row) -> tuple[str, dict[str, Any]]:
    options = row["options"]
    choices = ast.literal_eval(options) if isinstance(options, str) else list(options)
    return row["id"], _sample(row, row["question"], choices, str(row["answer"]))


def _rotated(found: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any] | None:
    """A question of MMBench with its choices rotated as its id says; None if there is none."""
    turn, number = divmod(int(name), ROTATION) if name.isdigit() else (0, 0)
    one = found.get(str(number))
    if not turn or one is None or not one["choices"]:
        return None
    given = [position for position, choice in enumerate(one["choices"]) if choice]
    if LETTERS.find(one["answer"]) not in given:
        return None
    moved, turned = list(one["choices"]), given[turn:] + given[:turn]
    for position, source in zip(given, turned, strict=True):
        moved[position] = one["choices"][source]
    right = given[turned.index(LETTERS.index(one["answer"]))]
    return {**one, "choices": moved, "answer": LETTERS[right]}


_ROWS: Mapping[str, Callable[[Row], tuple[str, dict[str, Any]]]] = {
    "mme": _mme,
    "pope": _pope,
    "mmbench": _mmbench,
    "mmmu": _mmmu,
}
