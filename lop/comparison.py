"""Methods side by side at equal budgets, on the same questions: tables with paired errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lop.errors import LopError
from lop.evaluation import Evaluation, paired_difference
from lop.models.checkpoint import read_json
from lop.tasks.benchmarks import HEADLINE

TITLES = {
    "lop": "LOP",
    "knapsack": "Knapsack",
    "uniform": "Uniform",
    "random": "Random",
    "magnitude": "Magnitude",
    "wanda_sp": "Wanda-sp",
    "flap": "FLAP",
}


@dataclass(frozen=True)
class Comparison:
    """What every method made of every ratio.

    `table` has a row a (method, ratio): kept, plan, accuracy, stderr, parameters, latency …
    """

    table: pd.DataFrame
    dense: dict[str, Any]
    answers: dict[str, Evaluation]

    @classmethod
    def read(cls, evaluation: Path, pruned: Path) -> Comparison:
        """Gather what pruning and evaluation wrote; LopError when something is missing."""
        metrics = read_json(evaluation / "metrics.json")
        plans = read_json(pruned / "plans.json")
        names = [f"{plan['method']}-{plan['ratio']:g}" for plan in plans]
        if missing := set(names) - set(metrics):
            raise LopError(f"{evaluation}: no evaluation of {', '.join(sorted(missing))}")
        rows = [{"name": n, **plan, **metrics[n]} for n, plan in zip(names, plans, strict=True)]
        models = ["dense", *names]
        answers = {name: Evaluation.load(evaluation / name / HEADLINE) for name in models}
        table = pd.DataFrame(rows).sort_values(["ratio", "method"])
        return cls(table, metrics["dense"], answers)

    @property
    def methods(self) -> list[str]:
        """The methods compared, in the order of `TITLES`."""
        return [m for m in TITLES if m in set(self.table["method"])]

    def of(self, method: str) -> pd.DataFrame:
        """The rows of one method, by ratio."""
        return self.table[self.table["method"] == method]

    def differences(self, ours: str) -> pd.DataFrame:
        """`ours` minus each other method at each ratio, in points, with paired standard error."""
        rows = []
        for row in self.table[self.table["method"] != ours].to_dict("records"):
            mine = self.answers[f"{ours}-{row['ratio']:g}"].samples
            difference, error = paired_difference(mine, self.answers[row["name"]].samples)
            rows.append(
                {
                    "ratio": row["ratio"],
                    "baseline": row["method"],
                    "difference": 100 * difference,
                    "stderr": 100 * error,
                }
            )
        return pd.DataFrame(rows, columns=["ratio", "baseline", "difference", "stderr"])

    def accuracy_markdown(self) -> str:
        """A row a ratio, a column a method: per cent ± standard error, the best in bold."""
        titles = [TITLES[m] for m in self.methods]
        lines = [["FFN", "model", *titles], ["---"] * (2 + len(titles))]
        lines.append(["0 %", "0 %", *[percent(self.dense)] * len(titles)])
        for ratio, rows in self.table.groupby("ratio"):
            best = rows["accuracy"].max()
            by_method = rows.set_index("method").to_dict("index")
            cells = [
                _bold(percent(r), r["accuracy"] == best) for r in map(by_method.get, self.methods)
            ]
            smaller = 1 - rows["parameters"].mean() / self.dense["parameters"]
            lines.append([f"{100 * ratio:g} %", f"{100 * smaller:.1f} %", *cells])
        return markdown(lines)


def differences_markdown(differences: pd.DataFrame, searched: list[float] | None = None) -> str:
    """A row a ratio, a column a baseline; bold beyond twice the error, * where never searched."""
    baselines = [m for m in TITLES if m in set(differences["baseline"])]
    lines = [["FFN", *(f"− {TITLES[b]}" for b in baselines)], ["---"] * (1 + len(baselines))]
    for ratio, rows in differences.groupby("ratio"):
        by_name = rows.set_index("baseline")
        cells = []
        for baseline in baselines:
            difference, error = by_name.loc[baseline, ["difference", "stderr"]]
            cells.append(_bold(f"{difference:+.2f} ± {error:.2f}", abs(difference) > 2 * error))
        known = searched is None or any(abs(ratio - target) < 1e-9 for target in searched)
        lines.append([f"{100 * ratio:g} %{'' if known else ' *'}", *cells])
    return markdown(lines)


def markdown(lines: list[list[str]]) -> str:
    """Rows of cells as a Markdown table; the second row holds the rule."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(row: dict[str, Any]) -> str:
    """Accuracy ± standard error in per cent; one sample has no error."""
    error = row["stderr"]
    return f"{100 * row['accuracy']:.2f}" + ("" if error is None else f" ± {100 * error:.2f}")


def _bold(text: str, on: bool) -> str:
    return f"**{text}**" if on else text
