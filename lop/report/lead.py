"""The first section of the page: what smaller models save and cost, as a sentence and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lop.evaluation.comparison import WHOLE, Comparison
from lop.evaluation.timing import Paired
from lop.evaluation.tradeoff import POINTS, Point, Unit, accuracy_error, sentence
from lop.plan import RECOVERED, per_cent
from lop.report import plots

FILE = "tradeoff.png"
SERIES = {"dense": "Dense", "lop": "LOP", f"lop{RECOVERED}": "LOP, recovered"}


def table(compared: Comparison) -> pd.DataFrame:
    """One row for each model: dense, and LOP's before and after recovery.

    `size` is a share of the dense model's bytes, `speed` a multiple of its speed (nan: not
    measured), with the middle half of the pairs between `speed_low` and `speed_high`. `value` is
    the headline figure as printed, `loss` its loss from the dense model, both with errors.
    """
    whole = {"dense": compared.dense} | ({WHOLE: compared.recovered} if compared.recovered else {})
    rows = [
        _row(compared, "dense" if name == "dense" else f"lop{RECOVERED}", name, 0.0, of)
        for name, of in whole.items()
    ]
    for method in list(SERIES)[1:]:
        for row in compared.of(method).to_dict("records"):
            rows.append(_row(compared, method, row["name"], row["ratio"], row))
    return pd.DataFrame(rows)


def _row(
    compared: Comparison, method: str, name: str, ratio: float, of: Mapping[str, Any]
) -> dict[str, Any]:
    by, dense = compared.by, name == "dense"
    gap, error = (0.0, 0.0) if dense else compared.difference(name, "dense", by.task, by.metric)
    error *= by.scale
    if not dense and by.unit == "points":
        error = accuracy_error(error, of["count"])
    speeds = ("speedup", "speedup_low", "speedup_high")
    speed, low, high = (1.0 if dense else of.get(key) for key in speeds)
    return {
        "name": name,
        "method": method,
        "ratio": ratio,
        "size": of["disk_bytes"] / compared.dense["disk_bytes"],
        "speed": speed,
        "speed_low": low,
        "speed_high": high,
        "value": by.scale * of[by.metric],
        "stderr": by.scale * (of["stderr"] or 0.0),
        "loss": by.scale * (gap if by.lower else -gap),
        "loss_stderr": error,
    }


def claim(compared: Comparison, rows: pd.DataFrame) -> str:
    """One sentence: what the smallest model with a small loss saves."""
    by = compared.by
    little = 0.05 * by.scale * compared.dense[by.metric]
    within = f"{little:.{by.digits}f} of {by.unit}"
    unit = POINTS if by.unit == "points" else Unit(f"of {by.unit}", little, within, by.digits)
    points = []
    for row in rows[rows["ratio"] > 0].to_dict("records"):
        timed = pd.notna(row["speed"])
        points.append(
            Point(
                f"{SERIES[row['method']]} at {per_cent(row['ratio'])}",
                row["size"],
                Paired(row["speed"], row["speed_low"], row["speed_high"]) if timed else None,
                row["loss"],
                row["loss_stderr"],
            )
        )
    return sentence(points, unit)


def _axis(compared: Comparison) -> str:
    by = compared.by
    return f"{by.title} (%)" if by.scale == 100 else by.title


def lead(compared: Comparison, out: Path) -> str:
    """The section as Markdown; its plot and its figures as CSV are written to `out`."""
    rows = table(compared)
    rows.to_csv(out / "tradeoff.csv", index=False)
    plots.tradeoff(rows, SERIES, _axis(compared), out / FILE)
    return f"""**{claim(compared, rows)}**

![{compared.by.metric} against size and speed]({FILE})

Size is that of the weights on disk. Speed is measured: the model and the dense model answer single
questions in turn; a bar spans the middle half of the pairs. Losses are paired by question."""
