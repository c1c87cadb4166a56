"""The main table, in the form of the paper's Table 1: methods and ratios by benchmark.

The benchmarks that lop builds from easy-VQA have the form of the published benchmarks but other
questions. They have a separate table, and every column title says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lop.evaluation.comparison import TITLES, Comparison, bold, markdown
from lop.evaluation.tasks.benchmarks import benchmark
from lop.plan import checkpoint_name, per_cent

OURS = "lop"


@dataclass(frozen=True)
class Column:
    """One metric of one task."""

    title: str
    task: str
    metric: str
    scale: float = 100  # factor of the printed figure
    averaged: bool = False  # whether the average includes it

    @property
    def unit(self) -> str:
        """The unit of the printed figures."""
        if self.metric in benchmark(self.task).scorer.lower:
            return "less is better"
        return "%" if self.scale == 100 else "points"


@dataclass(frozen=True)
class Score:
    """A value with its standard error; nan if it is unknown."""

    value: float
    stderr: float


# (title, task there, task built from easy-VQA, metric or None for the task's primary, averaged)
_TABLE = [
    ("MME-P", "mme", "easyvqa_mme", "perception", False),
    ("MME-R", "mme", "easyvqa_mme", "cognition", False),
    ("MMBench", "mmbench", "easyvqa_mmbench", None, True),
    ("MMMU", "mmmu_val", "easyvqa_mmmu", None, True),
    ("POPE", "pope", "easyvqa_pope", None, True),
]
SUITES = {"Benchmarks": "", "Benchmarks built from easy-VQA": " (easy-VQA)"}
_FURTHER = ("accuracy", "circular", "precision", "recall", "f1", "yes_ratio")
_POINTS = ("perception", "cognition")  # sums, not shares


def main_columns(compared: Comparison, label: str) -> list[Column]:
    """The evaluated columns of Table 1, for the published benchmarks or their easy-VQA form."""
    columns = []
    for title, real, built, metric, averaged in _TABLE:
        task = built if label else real
        if task not in compared.tasks:
            continue
        primary = metric or compared.tasks[task]["primary"]
        detail = "" if metric or primary == "accuracy" else f", {_plain(primary)}"
        scale = 1 if primary in _POINTS else 100
        columns.append(Column(f"{title}{detail}{label}", task, primary, scale, averaged))
    return columns


def other_columns(compared: Comparison, label: str) -> list[Column]:
    """Further metrics of these tasks; benchmarks.csv has all, including those of subtasks."""
    shown = {(c.task, c.metric) for c in main_columns(compared, label)}
    titles = {(built if label else real): title for title, real, built, *_ in _TABLE}
    titles |= {task: "MME" for task in titles if task.endswith("mme")}
    return [
        Column(f"{title}, {_plain(metric)}{label}", task, metric)
        for task, title in titles.items()
        for metric in _FURTHER
        if metric in compared.tasks.get(task, {}).get("metrics", {}) and (task, metric) not in shown
    ]


def further_tasks(compared: Comparison) -> list[Column]:
    """The primary metrics of all tasks except those of Table 1 and the headline task."""
    known = {name for _, real, built, *_ in _TABLE for name in (real, built)} | {compared.by.task}
    rest = {task: about["primary"] for task, about in compared.tasks.items() if task not in known}
    return [Column(f"{task}, {_plain(name)}", task, name, scale=1) for task, name in rest.items()]


def has_average(columns: Sequence[Column]) -> bool:
    """Whether all three benchmarks of the paper's average were evaluated."""
    return sum(c.averaged for c in columns) == 3


def cell(compared: Comparison, name: str, column: Column) -> Score:
    """One figure of the table, as printed."""
    value, error = compared.score(name, column.task, column.metric)
    return Score(column.scale * value, column.scale * error)


def average(compared: Comparison, name: str, columns: Sequence[Column]) -> Score:
    """Mean of the benchmarks that the paper averages; their errors are assumed independent."""
    return mean([cell(compared, name, c) for c in columns if c.averaged])


def difference(compared: Comparison, a: str, b: str, columns: Sequence[Column]) -> Score:
    """Model `a` minus `b`, paired by question: in one column, or in the average of several."""
    apart = [compared.difference(a, b, c.task, c.metric) for c in columns]
    pairs = zip(columns, apart, strict=True)
    return mean([Score(c.scale * value, c.scale * error) for c, (value, error) in pairs])


def relative(compared: Comparison, name: str, columns: Sequence[Column]) -> Score:
    """The average as per cent of the dense model's; the error includes their covariance."""
    own, dense = (average(compared, n, columns) for n in (name, "dense"))
    apart = difference(compared, name, "dense", [c for c in columns if c.averaged]).stderr
    share = own.value / dense.value if dense.value else np.nan
    covariance = (own.stderr**2 + dense.stderr**2 - apart**2) / 2
    variance = own.stderr**2 + (share * dense.stderr) ** 2 - 2 * share * covariance
    return Score(100 * share, 100 * float(np.sqrt(max(variance, 0))) / dense.value)


def main_table(
    compared: Comparison, columns: Sequence[Column], label: str, seconds: Mapping[str, float]
) -> str:
    """A Markdown table, a row for each ratio and method; `seconds` are plan times by model name.

    The best figure of a ratio is bold. ▼ marks a figure that LOP exceeds by more than twice the
    paired standard error, ▲ a figure that exceeds LOP's by as much.
    """
    mean = has_average(columns)
    head = ["ratio, method", *(c.title for c in columns)]
    head += [f"average{label}", f"of dense{label}, %"] * mean + ["plan in"] * bool(seconds)
    lines = [head, ["---"] * len(head)]
    parts = [[c] for c in columns] + [[c for c in columns if c.averaged]] * mean
    dense = [_text(_figure(compared, "dense", part)) for part in parts]
    lines.append(["0 % dense", *dense, *["100.0"] * mean, *["–"] * bool(seconds)])
    for ratio, rows in compared.table.groupby("ratio"):
        names = {m: n for m in TITLES for n in rows.loc[rows["method"] == m, "name"]}
        for method, cells in _judged(compared, names, parts).items():
            if mean:
                cells.append(_text(relative(compared, names[method], columns), digits=1))
            if seconds:
                cells.append(_time(seconds.get(names[method])))
            lines.append([f"{per_cent(float(str(ratio)))} {TITLES[method]}", *cells])
    return markdown(lines)


def other_table(compared: Comparison, columns: Sequence[Column]) -> str:
    """Further metrics, a row for each ratio and method; unmarked, as more is not always better."""
    head = ["ratio, method", *(c.title for c in columns)]
    lines = [head, ["---"] * len(head)]
    rows = [{"ratio": 0.0, "name": "dense", "method": "dense"}, *_in_order(compared)]
    for row in rows:
        cells = [_text(cell(compared, row["name"], c)) for c in columns]
        title = TITLES.get(row["method"], "dense")
        lines.append([f"{per_cent(row['ratio'])} {title}", *cells])
    return markdown(lines)


def _in_order(compared: Comparison) -> list[dict[str, Any]]:
    order = list(TITLES)
    rows = compared.table.to_dict("records")
    return sorted(rows, key=lambda row: (row["ratio"], order.index(row["method"])))


def _judged(
    compared: Comparison, names: Mapping[str, str], parts: Sequence[Sequence[Column]]
) -> dict[str, list[str]]:
    """The cells of each method at one ratio, with the best in bold and marks relative to LOP."""
    figures = {m: [_figure(compared, n, part) for part in parts] for m, n in names.items()}
    best = [_best([row[i].value for row in figures.values()]) for i in range(len(parts))]
    return {
        method: [
            bold(_text(figure), figure.value == top) + _mark(compared, names, method, part)
            for figure, top, part in zip(row, best, parts, strict=True)
        ]
        for method, row in figures.items()
    }


def _best(values: Sequence[float]) -> float | None:
    """The highest value; None if all are equal."""
    return max(values) if len(set(values)) > 1 else None


def long_table(compared: Comparison) -> pd.DataFrame:
    """Every metric of every task and model with LOP's paired difference, for CSV."""
    which = compared.table[["name", "method", "ratio"]]
    table = compared.scores.merge(which, on="name", how="left").fillna({"ratio": 0.0})
    table["method"] = table["method"].fillna("dense")
    apart = [_lop_minus(compared, row) for row in table.to_dict("records")]
    return table.assign(
        lop_minus_this=[value for value, _ in apart], paired_stderr=[error for _, error in apart]
    )


def _lop_minus(compared: Comparison, row: Mapping[str, Any]) -> tuple[float, float]:
    ours = checkpoint_name(OURS, row["ratio"])
    if row["method"] in ("dense", OURS) or ours not in set(compared.table["name"]):
        return np.nan, np.nan
    return compared.difference(ours, row["name"], row["task"], row["metric"])


def _mark(
    compared: Comparison, names: Mapping[str, str], method: str, part: Sequence[Column]
) -> str:
    if method == OURS or OURS not in names:
        return ""
    apart = difference(compared, names[OURS], names[method], part)
    if not abs(apart.value) > 2 * apart.stderr:  # False for an unknown error (nan)
        return ""
    return " ▼" if apart.value > 0 else " ▲"


def _figure(compared: Comparison, name: str, part: Sequence[Column]) -> Score:
    return cell(compared, name, part[0]) if len(part) == 1 else average(compared, name, part)


def mean(scores: Sequence[Score]) -> Score:
    errors = np.array([s.stderr for s in scores])
    value = float(np.mean([s.value for s in scores]))
    return Score(value, float(np.sqrt((errors**2).sum())) / len(scores))


def _text(score: Score, digits: int = 2) -> str:
    if np.isnan(score.value):
        return "–"
    digits = 1 if score.value > 200 else digits
    error = "" if np.isnan(score.stderr) else f" ± {score.stderr:.{digits}f}"
    return f"{score.value:.{digits}f}{error}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _plain(metric: str) -> str:
    return {"f1": "F1", "yes_ratio": "yes-ratio"}.get(metric, metric)
