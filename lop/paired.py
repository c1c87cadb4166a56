"""Two models on the same questions, pair by pair: how far apart they are, and how surely.

A difference has the error of a jackknife over groups: questions about one image share that image's
difficulty, so whole groups are left out in turn. For a mean with one question a group it is the
usual s/√n of the paired differences; it holds as well for ratios and sums such as F1 or MME's
score, and needs no random draws. (Efron and Tibshirani, An Introduction to the Bootstrap, ch. 11.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lop.errors import LopError

COLUMNS = ["id", "group", "category", "prompt_hash", "answer", "prediction", "correct"]

# MME's subtasks of cognition; all others are perception (arXiv 2306.13394, section 2)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


@dataclass(frozen=True)
class Metric:
    """`value` of the counts of all groups; with `subtasks`, the sum of its values in each.

    `subtasks` says which categories count, each on its own.
    """

    value: Callable[[Any], np.ndarray]
    subtasks: Callable[[pd.Series], pd.Series] | None = None


def paired(a: pd.DataFrame, b: pd.DataFrame, metric: str) -> tuple[float, float]:
    """`metric` of answers `a` minus that of `b`, and the standard error of the difference.

    The error is nan where a stratum has one group only. Raises LopError unless both answer the
    same ids, each once, and the metric is known and has questions.
    """
    check_pairs(a, b)
    value, of_a, of_b = _known(metric).value, _strata(a, metric), _strata(b, metric)
    if not of_a:
        raise LopError(f"metric {metric!r}: none of these answers counts for it")
    difference = variance = 0.0
    for x, y in zip(of_a, of_b, strict=True):
        difference += float(value(x.sum()) - value(y.sum()))
        without = value(x.sum() - x) - value(y.sum() - y)  # each group in turn
        n = len(without)
        variance += (n - 1) / n * np.square(without - without.mean()).sum() if n > 1 else np.nan
    return difference, float(np.sqrt(variance))


def score(answers: pd.DataFrame, metric: str) -> float:
    """`metric` of one model's answers, in the units of `lop.evaluation`; nan where none counts."""
    value, strata = _known(metric).value, _strata(answers, metric)
    return float(sum(value(counts.sum()) for counts in strata)) if strata else math.nan


def check_pairs(a: pd.DataFrame, b: pd.DataFrame) -> None:
    """Raise LopError unless `a` and `b` answer the same questions, in the same words, each once."""
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
            f"cannot pair the results: {len(other)} questions were asked in other words, "
            f"first {other[0]}; evaluate both models again"
        )


def read_answers(folder: str | Path, task: str) -> pd.DataFrame:
    """The answers of the model at `<evaluation>/<model>` to `task`, ordered by id.

    Raises LopError, naming what is there, when it has not been asked that task.
    """
    folder = Path(folder)
    path = folder / f"{task}.parquet"
    if not path.is_file() and task == "lop_vqa" and Path(f"{folder}.parquet").is_file():
        path = Path(f"{folder}.parquet")
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.parquet"))) or "no task at all"
        raise LopError(f"{path}: no answers to task {task!r}; {folder.name} was asked: {known}")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise LopError(f"{path}: cannot read answers: {error}") from error
    if missing := {"id", "category", "answer", "prediction", "correct"} - set(table):
        raise LopError(f"{path}: not a table of answers, no column {', '.join(sorted(missing))}")
    table = table.assign(id=table["id"].astype(str))
    if "group" not in table:
        table["group"] = table["id"]
    return table.sort_values("id", ignore_index=True)


def _known(metric: str) -> Metric:
    if metric not in METRICS:
        raise LopError(f"metric {metric!r}: expected one of {', '.join(METRICS)}")
    return METRICS[metric]


def _strata(answers: pd.DataFrame, metric: str) -> list[pd.DataFrame]:
    """The counts of each subtask, or of all there is, a row a group in order of its name."""
    subtasks = _known(metric).subtasks
    if subtasks is None:
        return [_counts(answers)]
    chosen = answers[subtasks(answers["category"])]
    return [_counts(rows) for _, rows in chosen.groupby("category")]


def _counts(answers: pd.DataFrame) -> pd.DataFrame:
    """What metrics are made of: sums over the answers of each group.

    `whole` is 1 where all of a group is right; `tp`, `fp` and `fn` take "yes" as the positive.
    """
    right, yes = answers["correct"].astype(bool), answers["answer"].astype(str).str.lower() == "yes"
    table = pd.DataFrame(
        {"right": right, "asked": 1, "tp": yes & right, "fp": ~yes & ~right, "fn": yes & ~right}
    )
    groups = table.astype(float).groupby(answers["group"])
    return groups.sum().assign(whole=groups["right"].min(), groups=1.0)


def _share(part: Any, of: Any) -> np.ndarray:
    """part / of, and 0 where there is nothing to share."""
    part, of = np.asarray(part, float), np.asarray(of, float)
    return np.divide(part, of, out=np.zeros_like(of), where=of > 0)


def _accuracy(c: Any) -> np.ndarray:
    return _share(c["right"], c["asked"])


def _circular(c: Any) -> np.ndarray:
    return _share(c["whole"], c["groups"])


def _mme(c: Any) -> np.ndarray:
    """A subtask's score out of 200: accuracy and accuracy_plus (images with all right), per cent"""
    return 100 * (_accuracy(c) + _circular(c))


METRICS = {
    "accuracy": Metric(_accuracy),
    "circular": Metric(_circular),
    "perception": Metric(_mme, lambda category: ~category.isin(COGNITION)),
    "cognition": Metric(_mme, lambda category: category.isin(COGNITION)),
    "precision": Metric(lambda c: _share(c["tp"], c["tp"] + c["fp"])),
    "recall": Metric(lambda c: _share(c["tp"], c["tp"] + c["fn"])),
    "f1": Metric(lambda c: _share(2 * c["tp"], 2 * c["tp"] + c["fp"] + c["fn"])),
    "yes_ratio": Metric(lambda c: _share(c["tp"] + c["fp"], c["asked"])),
}
