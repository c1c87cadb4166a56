"""The page of the reference model: tables, CSVs and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common import origin
from benchmarks.full.scale import Questions
from benchmarks.grid import check
from benchmarks.grid.draw import Draw
from benchmarks.grid.figures import rate
from benchmarks.grid.measured import (
    Measured,
    choices,
    compared,
    comparisons,
    figures,
    pooled,
    table,
)
from lop.evaluation.comparison import TITLES
from lop.files import Kind, replacing_dir
from lop.plan import per_cent
from lop.report import plots

KIND = Kind("the page of the reference model", ("full.md", "accuracy.csv", "comparison.csv"))
TASKS = {"overall": "all questions", "easyvqa": "easy-VQA", "knowledge": "knowledge"}
POINT = 0.01


def by_task(draws: Sequence[Measured], tasks: Sequence[np.ndarray]) -> dict[str, list[Measured]]:
    """The draws' results on all questions, and on those of each task."""
    found = {"overall": list(draws)}
    for task in [name for name in TASKS if name != "overall"]:
        found[task] = [draw.of(of == task) for draw, of in zip(draws, tasks, strict=True)]
    return found


def _shown(value: float, error: float) -> str:
    return f"{100 * value:.1f} ± {100 * error:.1f}"


def write(
    draws: Sequence[Measured],
    tasks: Sequence[np.ndarray],
    scale: Questions,
    out: Path,
) -> None:
    """Write full.md, accuracy.csv, comparison.csv and accuracy.png to the directory `out`.

    `tasks` (N,) a draw are the questions' tasks.
    """
    found = by_task(draws, tasks)
    compared_by = {task: comparisons(of) for task, of in found.items()}
    by = {task: figures(of, "accuracy", rate) for task, of in found.items()}
    shown = by["overall"][by["overall"]["draw"] == "all"]
    lines = shown[shown["chosen"] | shown["method"].isin(["wanda_sp", "flap", "magnitude"])]
    dense = float(shown.loc[shown["method"] == "dense", "accuracy"].iloc[0])
    with replacing_dir(out, KIND) as tmp:
        of_tasks = pd.concat(by, names=["task"]).reset_index("task")
        of_tasks.to_csv(tmp / "accuracy.csv", index=False, float_format="%.5f")
        table_of = [of.assign(task=task) for task, of in compared_by.items()]
        pd.concat(table_of).to_csv(tmp / "comparison.csv", index=False, float_format="%.5f")
        as_shown = lines.assign(value=100 * lines["accuracy"], stderr=100 * lines["stderr"])
        plots.curves(as_shown, 100 * dense, TITLES, "Accuracy (%)", tmp / "accuracy.png")
        (tmp / "full.md").write_text(text(found, compared_by, scale))


def text(
    found: dict[str, list[Measured]],
    comparison: dict[str, pd.DataFrame],
    scale: Questions,
) -> str:
    """The page as Markdown."""
    draws, widths, first = found["overall"], scale.space.units, Draw(scale, 0)
    shares = {}
    for task, of in found.items():
        whole = pooled(of)
        shares[task] = f"{100 * rate(whole.dense, whole.tokens, whole.clusters)[0]:.1f}"
    parts = [
        f"""## {TASKS[task][0].upper()}{TASKS[task][1:]}

{table(pooled(of), rate, _shown, max)}

{compared(comparison[task], of, POINT)}"""
        for task, of in found.items()
    ]
    return f"""# The reference model

{origin()}

The embedded Qwen2.5-VL, {len(widths)} layers of {widths[0]} FFN neurons: {len(draws)} draws of
{scale.test:,} test questions, half about shapes and colours (easy-VQA), half about flags and emoji
(knowledge). Dense it answers {shares["overall"]} % right: {shares["easyvqa"]} % of easy-VQA,
{shares["knowledge"]} % of knowledge. Standard errors are by picture.

![accuracy](accuracy.png)

Below, first accuracy in per cent, all draws together; then LOP against the others, in points:
accuracy of *LOP, as lop chooses* minus the other's. Positive is better; bold is beyond two standard
errors, which are those by picture of the paired differences and those of the draws. A draw has
samples for scores, reward and test of its own, and its own seeds of search and predictor.

{chr(10).join(f"{part}{chr(10)}" for part in parts)}
## What lop chooses

{choices(draws, first)}

## How it is made

- **Samples** of a draw: {scale.calibration} for scores, {scale.reward} for the reward. No search
  and no score sees a picture of the test.
- **Search**: {scale.simulations} plans for each of {len(scale.targets)} targets
  ({", ".join(map(per_cent, scale.targets))}); all else as lop comes.
- **Right** is what greedy generation would answer exactly.
- **Check**: what `lop prune` cuts at {per_cent(max(scale.ratios))}, and the same plan
  measured in views of the dense model's weights: {check.told(first)}.

[accuracy.csv](accuracy.csv), [comparison.csv](comparison.csv)
"""
