"""Methods side by side at equal budgets, on the same questions: tables with paired errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lop.errors import LopError
from lop.evaluation.paired import check_pairs, paired, read_answers
from lop.evaluation.tasks.benchmarks import benchmark
from lop.files import read_json
from lop.plan import RECOVERED, check_once, checkpoint_name, per_cent

TASK = "lop_vqa"


@dataclass(frozen=True)
class Headline:
    """The metric of a task that compares methods, and how it is printed.

    It is printed times `scale`, in `unit`, with `digits` decimal places.
    """

    task: str
    metric: str
    title: str
    unit: str
    scale: float
    digits: int = 2

    @property
    def lower(self) -> bool:
        """Whether lower is better."""
        return self.metric in benchmark(self.task).scorer.lower


# the first one that the models have is used
HEADLINES = (
    Headline(TASK, "accuracy", "Accuracy", "points", 100),
    Headline("lop_text", "perplexity", "Perplexity", "perplexity", 1),
)
WHOLE = "recovered"  # the whole model after recovery, beside `dense`
TITLES = {
    "lop_recovered": "LOP, recovered",
    "lop": "LOP",
    "knapsack_recovered": "Knapsack, recovered",
    "knapsack": "Knapsack",
    "uniform_recovered": "Uniform, recovered",
    "uniform": "Uniform",
    "random": "Random",
    "magnitude": "Magnitude",
    "wanda_sp": "Wanda-sp",
    "flap": "FLAP",
}


@dataclass(frozen=True)
class Comparison:
    """The results of every method at every ratio.

    `table` has a row for each (method, ratio): name, kept, plan, stderr, parameters, latency … and
    the metric `by` that compares methods. `scores` has a row for each (model, task, metric): name,
    task, metric, value, stderr (nan: none).
    """

    table: pd.DataFrame
    dense: dict[str, Any]
    scores: pd.DataFrame
    evaluation: Path
    by: Headline = HEADLINES[0]
    recovered: dict[str, Any] | None = None  # the whole model after recovery, as `dense` before
    _answers: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict)
    _groups: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict)

    @classmethod
    def read(cls, evaluation: Path, pruned: Path) -> Comparison:
        """Read the output of pruning and evaluation; LopError for a missing or invalid file."""
        plans, metrics = _plans(pruned / "plans.json"), _metrics(evaluation / "metrics.json")
        names = [checkpoint_name(plan["method"], plan["ratio"]) for plan in plans]
        if missing := {"dense", *names} - set(metrics):
            raise LopError(f"{evaluation}: no evaluation of {', '.join(sorted(missing))}")
        whole = ["dense", *(name for name in [WHOLE] if name in metrics)]
        scores = pd.DataFrame([row for name in [*whole, *names] for row in _scores(name, metrics)])
        rows = [{"name": n, **plan, **metrics[n]} for n, plan in zip(names, plans, strict=True)]
        table = pd.DataFrame(rows).sort_values(["ratio", "method"])
        dense, recovered = metrics["dense"], metrics.get(WHOLE)
        return cls(table, dense, scores, evaluation, _headline(dense), recovered)

    @property
    def methods(self) -> list[str]:
        """The methods compared, in the order of `TITLES`."""
        return [m for m in TITLES if m in set(self.table["method"])]

    @property
    def scope(self) -> str:
        """The name of the plans' scope."""
        kinds = self.table["kinds"].iloc[0] if "kinds" in self.table else ()
        return "attention and FFNs" if "attention" in kinds else "FFNs"

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """The dense model's tasks: their counts, primary metric and metrics."""
        return tasks_of(self.dense)

    def of(self, method: str) -> pd.DataFrame:
        """The rows of one method, by ratio."""
        return self.table[self.table["method"] == method]

    def answers(self, name: str, task: str) -> pd.DataFrame:
        """The answers of one model to a task, one row for each question; LopError if there are
        none."""
        if (name, task) not in self._answers:
            self._answers[name, task] = read_answers(self.evaluation / name, task)
        return self._answers[name, task]

    def score(self, name: str, task: str, metric: str) -> tuple[float, float]:
        """Value and standard error of a metric, nan where there is none."""
        s = self.scores
        found = s[(s["name"] == name) & (s["task"] == task) & (s["metric"] == metric)]
        return (np.nan, np.nan) if found.empty else tuple(found.iloc[0][["value", "stderr"]])

    def difference(self, a: str, b: str, task: str, metric: str) -> tuple[float, float]:
        """Model `a` minus model `b` with the paired standard error; nan where it has none.

        If the answers do not reproduce the recorded value, there is no error.
        """
        difference = self.score(a, task, metric)[0] - self.score(b, task, metric)[0]
        if not all(self._gives(name, task, metric) for name in (a, b)):
            return difference, np.nan
        check_pairs(self.answers(a, task), self.answers(b, task))
        x, y = self._counted(a, task), self._counted(b, task)
        return paired(benchmark(task).scorer, x, y, metric)

    def _gives(self, name: str, task: str, metric: str) -> bool:
        found = benchmark(task).scorer.figures(self._counted(name, task).sum())
        recorded = self.score(name, task, metric)[0]
        return metric in found and bool(np.isclose(found[metric], recorded, atol=1e-6))

    def _counted(self, name: str, task: str) -> pd.DataFrame:
        if (name, task) not in self._groups:
            self._groups[name, task] = benchmark(task).scorer.clusters(self.answers(name, task))
        return self._groups[name, task]

    def differences(self, ours: str) -> pd.DataFrame:
        """`ours` minus each other method at each ratio, as printed, with paired standard error.

        Methods with recovered weights are left out.
        """
        others = self.table["method"] != ours, ~self.table["method"].str.endswith(RECOVERED)
        rows = []
        for row in self.table[others[0] & others[1]].to_dict("records"):
            pair = (checkpoint_name(ours, row["ratio"]), row["name"])
            difference, error = self.difference(*pair, self.by.task, self.by.metric)
            rows.append(
                {
                    "ratio": row["ratio"],
                    "baseline": row["method"],
                    "difference": self.by.scale * difference,
                    "stderr": self.by.scale * error,
                }
            )
        return pd.DataFrame(rows, columns=["ratio", "baseline", "difference", "stderr"])

    def shown(self, row: Mapping[str, Any]) -> str:
        """The headline figure of a row of `table`, ± standard error; one sample has no error."""
        scale, digits = self.by.scale, self.by.digits
        error = "" if (e := row["stderr"]) is None else f" ± {scale * e:.{digits}f}"
        return f"{scale * row[self.by.metric]:.{digits}f}{error}"

    def markdown(self) -> str:
        """A row for each ratio, a column for each method: the metric ± standard error, the best in
        bold."""
        titles = [TITLES[m] for m in self.methods]
        lines = [["ratio", "model", *titles], ["---"] * (2 + len(titles))]
        whole = {True: self.recovered or self.dense, False: self.dense}
        shown = [self.shown(whole[method.endswith(RECOVERED)]) for method in self.methods]
        lines.append(["0 %", "0 %", *shown])
        metric = self.by.metric
        for ratio, rows in self.table.groupby("ratio"):
            best = rows[metric].min() if self.by.lower else rows[metric].max()
            by_method = rows.set_index("method").to_dict("index")
            cells = [
                bold(self.shown(r), r[metric] == best) for r in map(by_method.get, self.methods)
            ]
            smaller = 1 - rows["parameters"].mean() / self.dense["parameters"]
            lines.append([per_cent(ratio), f"{100 * smaller:.1f} %", *cells])
        return markdown(lines)


_NUMBER = (int, float)
_OR_NONE = (int, float, type(None))
_PLAN = {"method": str, "ratio": _NUMBER, "kept": list, "plan": list}
_COSTS = dict.fromkeys(("parameters", "disk_bytes", "peak_bytes", "latency_ms"), _NUMBER)
_METRICS = {"stderr": _OR_NONE, "count": int, "peak_of": str, **_COSTS}
_SUMMARY = {"count": int, "primary": str, "metrics": dict}
_FIGURE = {"value": _NUMBER, "stderr": _OR_NONE}


def check_keys(found: Any, wanted: Mapping[str, Any], where: str) -> None:
    """Raise LopError unless `found` is an object that has these keys, each of the type given."""
    if not isinstance(found, dict):
        raise LopError(f"{where}: expected an object, found {type(found).__name__}")
    for key, kind in wanted.items():
        if key not in found:
            raise LopError(f"{where}: no {key!r}; expected {', '.join(wanted)}")
        if not isinstance(found[key], kind) or isinstance(found[key], bool):
            raise LopError(f"{where}: {key} {found[key]!r} is not of the type expected")
        if key == "stderr" and found[key] is not None and not found[key] >= 0:
            raise LopError(f"{where}: stderr {found[key]!r}: expected 0 or more")


def _plans(path: Path) -> list[dict[str, Any]]:
    """The plans that `prune` wrote, one for each checkpoint; LopError if the file is not valid."""
    plans = read_json(path)
    if not isinstance(plans, list) or not plans:
        raise LopError(f"{path}: expected a list of plans")
    for i, plan in enumerate(plans):
        check_keys(plan, _PLAN, f"{path}, plan {i}")
        if plan["method"] not in TITLES:
            raise LopError(f"{path}, plan {i}: no method {plan['method']!r}")
    check_once(f"{path}:", [checkpoint_name(plan["method"], plan["ratio"]) for plan in plans])
    return plans


def _metrics(path: Path) -> dict[str, dict[str, Any]]:
    """The metrics and costs by model that `evaluate` wrote; LopError if the file is not valid."""
    metrics = read_json(path)
    check_keys(metrics, {}, str(path))
    for name, of in metrics.items():
        check_keys(of, {}, f"{path}, {name}")
    asked = [by for by in HEADLINES if any(by.metric in of for of in metrics.values())]
    by = asked[0] if asked else HEADLINES[0]
    for name, of in metrics.items():
        if by.metric not in of:
            raise LopError(f"{path}: methods are compared by {by.task}, which {name} was not asked")
        check_keys(of, {by.metric: _NUMBER, **_METRICS}, f"{path}, {name}")
        for task, summary in tasks_of(of).items():
            check_keys(summary, _SUMMARY, f"{path}, {name}, {task}")
            for metric, figure in summary["metrics"].items():
                check_keys(figure, _FIGURE, f"{path}, {name}, {task}, {metric}")
    return metrics


def _headline(metrics: Mapping[str, Any]) -> Headline:
    return next(by for by in HEADLINES if by.metric in metrics)


def tasks_of(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The tasks in a model's metrics, with the headline's task first."""
    by = _headline(metrics)
    own = {by.metric: {"value": metrics[by.metric], "stderr": metrics["stderr"]}}
    first = {"count": metrics["count"], "primary": by.metric, "metrics": own}
    return {by.task: first} | metrics.get("tasks", {})


def _scores(name: str, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "task": task, "metric": metric}
        | {"value": one["value"], "stderr": np.nan if one["stderr"] is None else one["stderr"]}
        for task, summary in tasks_of(metrics[name]).items()
        for metric, one in summary["metrics"].items()
    ]


def differences_markdown(differences: pd.DataFrame, searched: list[float] | None = None) -> str:
    """A row for each ratio, a column for each baseline; bold beyond twice the error, * for ratios
    without a search."""
    baselines = [m for m in TITLES if m in set(differences["baseline"])]
    lines = [["ratio", *(f"− {TITLES[b]}" for b in baselines)], ["---"] * (1 + len(baselines))]
    for ratio, rows in differences.groupby("ratio"):
        by_name = rows.set_index("baseline")
        cells = []
        for baseline in baselines:
            difference, error = by_name.loc[baseline, ["difference", "stderr"]]
            cells.append(bold(f"{difference:+.2f} ± {error:.2f}", abs(difference) > 2 * error))
        known = searched is None or any(abs(ratio - target) < 1e-9 for target in searched)
        lines.append([per_cent(ratio) + ("" if known else " *"), *cells])
    return markdown(lines)


def markdown(lines: list[list[str]]) -> str:
    """Rows of cells as a Markdown table; the second row is the separator."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bold(text: str, on: bool) -> str:
    """The text in bold, when `on`."""
    return f"**{text}**" if on else text
