"""Two models on the same questions, pair by pair: how far apart they are, and how surely.

A difference has the error of a jackknife over groups: questions about one image share that image's
difficulty, so whole groups are left out in turn. For a mean with one question a group it is the
usual s/√n of the paired differences; it holds as well for ratios and sums such as F1 or MME's
score, and needs no random draws. (Efron and Tibshirani, An Introduction to the Bootstrap, ch. 11.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lop.errors import LopError

ROTATION = 1_000_000  # MMBench numbers a question's rotations that far apart

# The subtasks of cognition, MME's (arXiv 2306.13394, section 2) and easy-VQA's in its form; all
# others are perception.
COGNITION = (
    "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning",
    "negated_colour", "negated_shape",
)  # fmt: skip

Sums = Mapping[str, Any]  # of the columns of `parts`: numbers, or an array with one a group


def paired(a: pd.DataFrame, b: pd.DataFrame, metric: str) -> tuple[float, float]:
    """`metric` of answers `a` minus that of `b`, and the standard error of the difference.

    The error is nan for a single group. Raises LopError unless both answer the same ids, each once,
    and the metric is one of `METRICS`.
    """
    check_pairs(a, b)
    return apart(parts(a), parts(b), metric)


def apart(x: pd.DataFrame, y: pd.DataFrame, metric: str) -> tuple[float, float]:
    """What `paired` says, from the `parts` of both, which are worth keeping for many metrics."""
    figure = _known(metric)
    difference = float(figure(x.sum()) - figure(y.sum()))
    without = figure(x.sum() - x) - figure(y.sum() - y)  # each group in turn
    n = len(without)
    variance = (n - 1) / n * np.square(without - without.mean()).sum() if n > 1 else np.nan
    return difference, float(np.sqrt(variance))


def score(answers: pd.DataFrame, metric: str) -> float:
    """`metric` of one model's answers: a share, or points for `perception` and `cognition`."""
    return value_of(parts(answers), metric)


def value_of(x: pd.DataFrame, metric: str) -> float:
    """What `score` says, from the `parts` of the answers."""
    return float(_known(metric)(x.sum()))


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


def _known(metric: str) -> Callable[[Sums], Any]:
    if metric not in METRICS:
        raise LopError(f"metric {metric!r}: expected one of {', '.join(METRICS)}")
    return METRICS[metric]


def parts(answers: pd.DataFrame) -> pd.DataFrame:
    """What metrics are made of: a row a group, columns that add up over groups.

    `tp`, `fp` and `fn` take "yes" as the positive. A column `<category>/plus` counts images of
    which both questions are right, `<category>/images` all of them.
    """
    right, yes = answers["correct"].astype(bool), answers["answer"].astype(str).str.lower() == "yes"
    number, group = (pd.to_numeric(answers[c], errors="coerce") for c in ("id", "group"))
    first = ~((number >= ROTATION) & (number % ROTATION == group))
    columns = {"right": right & first, "asked": first}
    columns |= {"tp": yes & right, "fp": ~yes & ~right, "fn": yes & ~right}
    for category in sorted(answers["category"].unique()):
        here = answers["category"] == category
        columns |= {f"{category}/right": right & here, f"{category}/asked": here}
    groups = pd.DataFrame(columns).astype(float).groupby(answers["group"])
    table = groups.sum()
    whole = right.groupby(answers["group"]).all().astype(float)
    table = table.assign(whole=whole, groups=1.0)
    for category in [c.removesuffix("/asked") for c in table if c.endswith("/asked")]:
        both = (table[f"{category}/right"] == 2) & (table[f"{category}/asked"] == 2)
        table[f"{category}/plus"] = both.astype(float)
        table[f"{category}/images"] = (table[f"{category}/asked"] > 0).astype(float)
    return table


def _share(part: Any, of: Any) -> Any:
    """part / of, and 0 where there is nothing to share."""
    part, of = np.asarray(part, float), np.asarray(of, float)
    return np.divide(part, of, out=np.zeros_like(of), where=of > 0)


def _mme(cognition: bool) -> Callable[[Sums], Any]:
    """Half the subtasks' points, 100 · accuracy + 100 · accuracy_plus each (ibid., section 2.3)."""

    def points(c: Sums) -> Any:
        total = np.zeros_like(np.asarray(c["groups"], float))
        ends = "/images"
        for name in [k.removesuffix(ends) for k in map(str, c.keys()) if k.endswith(ends)]:
            if (name in COGNITION) == cognition:
                total = total + 100 * _share(c[f"{name}/right"], c[f"{name}/asked"])
                total = total + 100 * _share(c[f"{name}/plus"], c[f"{name}/images"])
        return total

    return points


METRICS: Mapping[str, Callable[[Sums], Any]] = {
    "accuracy": lambda c: _share(c["right"], c["asked"]),
    "circular": lambda c: _share(c["whole"], c["groups"]),  # arXiv 2307.06281, section 4.1
    "perception": _mme(cognition=False),
    "cognition": _mme(cognition=True),
    "precision": lambda c: _share(c["tp"], c["tp"] + c["fp"]),
    "recall": lambda c: _share(c["tp"], c["tp"] + c["fn"]),
    "f1": lambda c: _share(2 * c["tp"], 2 * c["tp"] + c["fp"] + c["fn"]),
    "yes_ratio": lambda c: _share(c["tp"] + c["fp"], c["asked"]),
}
