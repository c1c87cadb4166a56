"""The questions behind answers, with their pictures, from each benchmark's own columns, by id.

Ids are made as the tasks make them: of MME an image and a question, of POPE a split and a number,
of MMBench a number that also tells how far the choices are rotated.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from lop.comparison import TASK
from lop.errors import LopError
from lop.tasks.samples import read_samples
from lop.tasks.scoring import ROTATION

Row = Mapping[str, Any]


def samples_file(samples: Path, task: str) -> Path:
    """Where the questions of a task lie in the directory that `prepare` wrote."""
    return samples / ("benchmark.parquet" if task == TASK else f"tasks/{task}.parquet")


def questions(path: Path, task: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    """For each id: images, question, choices (may be None) and answer, as in a table of samples.

    `path` is a Parquet file or a folder of them, with the columns of the task's benchmark. Raises
    LopError, naming the file, when it lacks one of the ids.
    """
    kind = task.removeprefix("easyvqa_").removesuffix("_val")
    if kind in _ROWS:
        found = dict(_ROWS[kind](row) for row in _read(path).to_dict("records"))
    else:
        found = {str(row["id"]): row for row in read_samples(path).to_dict("records")}
    chosen = [found.get(i) or _rotated(found, i) for i in ids]
    if missing := [i for i, one in zip(ids, chosen, strict=True) if one is None]:
        raise LopError(
            f"{path}: no sample {missing[0]} ({len(missing)} of {len(ids)} ids are not there); "
            "expected the samples that the models were asked"
        )
    return [one for one in chosen if one]


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise LopError(f"{path}: cannot read the questions: {error}") from error


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
    choices = [str(row[c]) for c in "ABCD" if isinstance(row[c], str) and row[c].strip()]
    return str(row["index"]), _sample(row, row["question"].strip(), choices, row["answer"])


def _mmmu(row: Row) -> tuple[str, dict[str, Any]]:
    return row["id"], _sample(row, row["question"], ast.literal_eval(row["options"]), row["answer"])


def _rotated(found: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any] | None:
    """A question of MMBench with its choices moved up by as many places as its number says."""
    turn, number = divmod(int(name), ROTATION) if name.isdigit() else (0, 0)
    one = found.get(str(number))
    if not turn or one is None or not one["choices"]:
        return None
    choices = one["choices"][turn:] + one["choices"][:turn]
    right = one["choices"]["ABCD".index(one["answer"])]
    return {**one, "choices": choices, "answer": "ABCD"[choices.index(right)]}


_ROWS: Mapping[str, Callable[[Row], tuple[str, dict[str, Any]]]] = {
    "mme": _mme,
    "pope": _pope,
    "mmbench": _mmbench,
    "mmmu": _mmmu,
}
