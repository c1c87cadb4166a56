"""Paired differences of two models on the same questions, with standard errors.

The error is the jackknife over pictures of `lop.evaluation.tasks.scoring`; for a mean with one
question per picture it is the usual s/√n of the paired differences.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lop.errors import LopError
from lop.evaluation.tasks.benchmarks import benchmark
from lop.evaluation.tasks.scoring import Scorer, jackknife
from lop.files import reading


def paired(scorer: Scorer, a: pd.DataFrame, b: pd.DataFrame, metric: str) -> tuple[float, float]:
    """`metric` of one model minus that of another, and the standard error of the difference.

    `a` and `b` are the scorer's `clusters` of answers that passed `check_pairs`. The error is nan
    for a single picture. Raises LopError for an unknown metric.
    """
    difference = scorer.figure(a.sum(), metric) - scorer.figure(b.sum(), metric)
    return float(difference), jackknife(scorer.without(a)[metric] - scorer.without(b)[metric])


def check_pairs(a: pd.DataFrame, b: pd.DataFrame) -> None:
    """Raise LopError unless `a` and `b` answer the same questions with the same prompts, each
    once."""
    x, y = a.set_index("id"), b.set_index("id")
    if not (x.index.is_unique and y.index.is_unique and set(x.index) == set(y.index)):
        raise LopError(
            f"cannot pair the results: {len(x)} and {len(y)} samples, "
            f"{len(set(x.index) & set(y.index))} ids in common; expected the same ids, each once"
        )
    if not {"prompt_hash"} <= set(x) & set(y):
        return
    other = x.index[(x["prompt_hash"] != y["prompt_hash"].reindex(x.index)).to_numpy()]
    if len(other):
        raise LopError(
            f"cannot pair the results: {len(other)} questions have different prompts, "
            f"first {other[0]}; evaluate both models again"
        )


def read_answers(folder: str | Path, task: str) -> pd.DataFrame:
    """The answers of the model at `<evaluation>/<model>` to `task`, ordered by id.

    Raises LopError with the tasks that exist, if that task was not evaluated.
    """
    folder = Path(folder)
    path = folder / f"{task}.parquet"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.parquet"))) or "none"
        raise LopError(f"{path}: no answers to task {task!r}; tasks of {folder.name}: {known}")
    with reading(path, "answers"):
        table = pd.read_parquet(path)
    needed = set(benchmark(task).scorer.columns) - {"group", "picture", "prompt_hash"}
    if missing := needed - set(table):
        raise LopError(f"{path}: not a table of answers, no column {', '.join(sorted(missing))}")
    if "correct" in needed and table["correct"].dtype != bool:
        raise LopError(f"{path}: correct holds {table['correct'].dtype}, expected true or false")
    table = table.assign(id=table["id"].astype(str))
    if "group" not in table:
        table["group"] = table["id"]
    return table.sort_values("id", ignore_index=True)
