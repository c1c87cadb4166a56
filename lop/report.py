"""The page a person reads after a run: what each method keeps at each ratio, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lop import plots
from lop.comparison import TITLES, Comparison, differences_markdown, markdown, percent
from lop.models.checkpoint import read_json
from lop.search import read_search

SEARCH = ["searcher", "target", "seed"]  # what tells one search from another


@dataclass(frozen=True)
class Results:
    """All that the stages before left behind."""

    comparison: Comparison
    differences: pd.DataFrame  # LOP against each baseline
    search: pd.DataFrame
    training: dict[str, float]


def write_report(
    evaluation: Path, pruned: Path, search: Path, training: Path, out: Path
) -> dict[str, Any]:
    """Write report.md, its plots and the tables behind them as CSV to `out`.

    Returns the numbers that `dvc metrics` shows. Raises LopError when something is missing.
    """
    compared = Comparison.read(evaluation, pruned)
    results = Results(
        comparison=compared,
        differences=compared.differences("lop"),
        search=read_search(search),
        training=read_json(training / "metrics.json"),
    )
    progress = search_progress(results.search)
    accuracy_table(compared).to_csv(out / "accuracy.csv", index=False)
    results.differences.to_csv(out / "comparison.csv", index=False)
    progress.to_csv(out / "search.csv", index=False)
    plan_table(compared).to_csv(out / "plans.csv", index=False)
    plots.accuracy(compared.table, compared.dense, TITLES, out / "accuracy.png")
    plots.plan_heat_map(compared.of("lop"), out / "plans.png")
    plots.search_progress(progress, out / "search.png")
    plots.times(times(results), out / "times.png")
    (out / "report.md").write_text(page(results))
    return summary(results)


def search_progress(samples: pd.DataFrame) -> pd.DataFrame:
    """Best reward so far in each search, by simulation."""
    ordered = samples.sort_values([*SEARCH, "simulation"])
    best = ordered.groupby(SEARCH)["reward"].cummax()
    return ordered.assign(best=best)[[*SEARCH, "simulation", "best", "seconds"]]


def times(results: Results) -> dict[str, float]:
    """Seconds to a plan: one search (mean), and one prediction."""
    searches = results.search.groupby(SEARCH)["seconds"].max()
    return {"search": float(searches.mean()), "predict": results.training["predict_ms"] / 1000}


def accuracy_table(compared: Comparison) -> pd.DataFrame:
    """Per cent by ratio and method, for `dvc plots`."""
    table = compared.table.assign(accuracy=100 * compared.table["accuracy"])
    return table[["ratio", "method", "accuracy"]]


def plan_table(compared: Comparison) -> pd.DataFrame:
    """LOP's plans in long form, for `dvc plots`: ratio, layer, pruned share."""
    rows = [
        {"ratio": row["ratio"], "layer": layer, "pruned": share}
        for row in compared.of("lop").to_dict("records")
        for layer, share in enumerate(row["plan"])
    ]
    return pd.DataFrame(rows)


def summary(results: Results) -> dict[str, Any]:
    """The numbers that `dvc metrics` shows."""
    ours, taken = results.comparison.of("lop"), times(results)
    return {
        "dense": {"accuracy": results.comparison.dense["accuracy"]},
        "lop": {f"{r:g}": a for r, a in zip(ours["ratio"], ours["accuracy"], strict=True)},
        "best_baseline_difference_points": {
            f"{ratio:g}": float(rows["difference"].min())
            for ratio, rows in results.differences.groupby("ratio")
        },
        "search_seconds": taken["search"],
        "predict_ms": 1000 * taken["predict"],
        "search_over_predict": taken["search"] / taken["predict"],
    }


def page(results: Results) -> str:
    """The report as Markdown."""
    taken, dense = times(results), results.comparison.dense
    searches = results.search.groupby(SEARCH).ngroups
    targets = sorted(results.search["target"].unique())
    return f"""# lop report

Dense model: {percent(dense)} on {dense["count"]:,} benchmark questions, {dense["parameters"]:,}
parameters, {_mb(dense["disk_bytes"])} MB, {dense["latency_ms"]:.1f} ms a sample.

## Accuracy at each ratio

Per cent ± standard error; **bold** is the best of a row. *FFN* is the share of FFN neurons
removed, *model* the share of the whole model's parameters. All methods keep the same number of
neurons and answer the same questions.

{results.comparison.accuracy_markdown()}

![accuracy against ratio](accuracy.png)

## LOP against each baseline

Difference in points on the same questions ± paired standard error; **bold** where it is beyond
twice that error. Ratios marked * were never searched: their plans are the predictor's alone.

{differences_markdown(results.differences, targets)}

## What the cut saves (LOP)

{_footprint(results.comparison)}

Latency is the median over single samples, processor and greedy generation included; peak memory is
the process's ({dense["peak_of"]}) above what it held before loading, so on a model this small it
says little.

## Plans

![plans](plans.png)

## Search

{searches} searches evaluated {len(results.search):,} plans; the predictor learned from
{results.training["samples"]:.0f} of them.

![search progress](search.png)

A search takes {taken["search"]:.1f} s (mean), a prediction {1000 * taken["predict"]:.2f} ms on one
core: {taken["search"] / taken["predict"]:,.0f} times less.

![time to a plan](times.png)
"""


def _footprint(compared: Comparison) -> str:
    head = ["FFN", "model", "parameters", "on disk", "peak memory", "latency a sample"]
    lines = [head, ["---"] * len(head)]
    for row in [compared.dense | {"ratio": 0.0}, *compared.of("lop").to_dict("records")]:
        smaller = 1 - row["parameters"] / compared.dense["parameters"]
        sizes = [f"{_mb(row['disk_bytes'])} MB", f"{_mb(row['peak_bytes'])} MB"]
        shares = [f"{100 * row['ratio']:g} %", f"{100 * smaller:.1f} %"]
        lines.append([*shares, f"{row['parameters']:,}", *sizes, f"{row['latency_ms']:.1f} ms"])
    return markdown(lines)


def _mb(size: float) -> str:
    return f"{size / 1e6:.2f}"
