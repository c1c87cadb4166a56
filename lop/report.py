"""The page a person reads after a run: what each method keeps at each ratio, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lop import plots
from lop.errors import LopError
from lop.evaluation import Evaluation, paired_difference
from lop.models.checkpoint import read_json
from lop.search import read_search

TITLES = {
    "lop": "LOP",
    "uniform": "Uniform",
    "magnitude": "Magnitude",
    "wanda_sp": "Wanda-sp",
    "flap": "FLAP",
}


@dataclass(frozen=True)
class Results:
    """All that the stages before left behind."""

    table: pd.DataFrame  # a row a (method, ratio): accuracy, stderr, parameters, latency, plan …
    dense: dict[str, Any]
    answers: dict[str, Evaluation]
    search: pd.DataFrame
    training: dict[str, float]


def read_results(evaluation: Path, pruned: Path, search: Path, training: Path) -> Results:
    """Gather what the stages wrote; LopError when something is missing."""
    metrics = read_json(evaluation / "metrics.json")
    plans = read_json(pruned / "plans.json")
    names = [f"{plan['method']}-{plan['ratio']:g}" for plan in plans]
    if missing := set(names) - set(metrics):
        raise LopError(f"{evaluation}: no evaluation of {', '.join(sorted(missing))}")
    rows = [
        {"name": name, **plan, **metrics[name]} for name, plan in zip(names, plans, strict=True)
    ]
    answers = {name: Evaluation.load(evaluation / name) for name in ["dense", *names]}
    return Results(
        table=pd.DataFrame(rows).sort_values(["ratio", "method"]),
        dense=metrics["dense"],
        answers=answers,
        search=read_search(search),
        training=read_json(training / "metrics.json"),
    )


def write_report(
    evaluation: Path, pruned: Path, search: Path, training: Path, out: Path
) -> dict[str, Any]:
    """Write report.md, its plots and the tables behind them as CSV to `out`.

    Returns the numbers that `dvc metrics` shows.
    """
    results = read_results(evaluation, pruned, search, training)
    comparison = compare(results)
    progress = search_progress(results.search)
    accuracy_table(results).to_csv(out / "accuracy.csv", index=False)
    comparison.to_csv(out / "comparison.csv", index=False)
    progress.to_csv(out / "search.csv", index=False)
    plan_table(results).to_csv(out / "plans.csv", index=False)
    plots.accuracy(results.table, results.dense, TITLES, out / "accuracy.png")
    plots.plan_heat_map(lop_rows(results), out / "plans.png")
    plots.search_progress(progress, out / "search.png")
    plots.times(times(results), out / "times.png")
    (out / "report.md").write_text(page(results, comparison))
    return summary(results, comparison)


def lop_rows(results: Results) -> pd.DataFrame:
    """The rows of our own method, by ratio."""
    return results.table[results.table["method"] == "lop"]


def compare(results: Results) -> pd.DataFrame:
    """LOP against each baseline at each ratio: paired difference and standard error, in points."""
    rows = []
    for row in results.table.to_dict("records"):
        if row["method"] == "lop":
            continue
        ours = results.answers[f"lop-{row['ratio']:g}"]
        difference, error = paired_difference(ours.samples, results.answers[row["name"]].samples)
        rows.append(
            {
                "ratio": row["ratio"],
                "baseline": row["method"],
                "difference": 100 * difference,
                "stderr": 100 * error,
            }
        )
    return pd.DataFrame(rows)


def search_progress(samples: pd.DataFrame) -> pd.DataFrame:
    """Best reward so far in each search, by simulation."""
    ordered = samples.sort_values(["target", "seed", "simulation"])
    best = ordered.groupby(["target", "seed"])["reward"].cummax()
    return ordered.assign(best=best)[["target", "seed", "simulation", "best", "seconds"]]


def times(results: Results) -> dict[str, float]:
    """Seconds to a plan: one search (mean), and one prediction."""
    searches = results.search.groupby(["target", "seed"])["seconds"].max()
    return {"search": float(searches.mean()), "predict": results.training["predict_ms"] / 1000}


def accuracy_table(results: Results) -> pd.DataFrame:
    """Per cent by ratio and method, for `dvc plots`."""
    table = results.table.assign(accuracy=100 * results.table["accuracy"])
    return table[["ratio", "method", "accuracy"]]


def plan_table(results: Results) -> pd.DataFrame:
    """LOP's plans in long form, for `dvc plots`: ratio, layer, pruned share."""
    rows = [
        {"ratio": row["ratio"], "layer": layer, "pruned": share}
        for row in lop_rows(results).to_dict("records")
        for layer, share in enumerate(row["plan"])
    ]
    return pd.DataFrame(rows)


def summary(results: Results, comparison: pd.DataFrame) -> dict[str, Any]:
    """The numbers that `dvc metrics` shows."""
    ours = lop_rows(results)
    taken = times(results)
    return {
        "dense": {"accuracy": results.dense["accuracy"]},
        "lop": {f"{r:g}": a for r, a in zip(ours["ratio"], ours["accuracy"], strict=True)},
        "best_baseline_difference_points": {
            f"{ratio:g}": float(rows["difference"].min())
            for ratio, rows in comparison.groupby("ratio")
        },
        "search_seconds": taken["search"],
        "predict_ms": 1000 * taken["predict"],
        "search_over_predict": taken["search"] / taken["predict"],
    }


def page(results: Results, comparison: pd.DataFrame) -> str:
    """The report as Markdown."""
    taken, dense = times(results), results.dense
    searches = results.search.groupby(["target", "seed"]).ngroups
    targets = sorted(results.search["target"].unique())
    return f"""# lop report

Dense model: {_percent(dense)} on {dense["count"]:,} benchmark questions, {dense["parameters"]:,}
parameters, {_mb(dense["disk_bytes"])} MB, {dense["latency_ms"]:.1f} ms a sample.

## Accuracy at each ratio

Per cent ± standard error; **bold** is the best of a row. *FFN* is the share of FFN neurons
removed, *model* the share of the whole model's parameters. All methods keep the same number of
neurons and answer the same questions.

{_accuracy_rows(results)}

![accuracy against ratio](accuracy.png)

## LOP against each baseline

Difference in points on the same questions ± paired standard error; **bold** where it is beyond
twice that error. Ratios marked * were never searched: their plans are the predictor's alone.

{_comparison_rows(comparison, targets)}

## What the cut saves (LOP)

{_footprint_rows(results)}

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


def _accuracy_rows(results: Results) -> str:
    methods = [m for m in TITLES if m in set(results.table["method"])]
    lines = [
        "| FFN | model | " + " | ".join(TITLES[m] for m in methods) + " |",
        "|---|---|" + "---|" * len(methods),
        f"| 0 % | 0 % | {' | '.join([_percent(results.dense)] * len(methods))} |",
    ]
    for ratio, rows in results.table.groupby("ratio"):
        by_method = rows.set_index("method").to_dict("index")
        best = rows["accuracy"].max()
        smaller = 1 - by_method["lop"]["parameters"] / results.dense["parameters"]
        cells = [
            f"**{_percent(by_method[m])}**"
            if by_method[m]["accuracy"] == best
            else _percent(by_method[m])
            for m in methods
        ]
        lines.append(f"| {100 * ratio:g} % | {100 * smaller:.1f} % | {' | '.join(cells)} |")
    return "\n".join(lines)


def _comparison_rows(comparison: pd.DataFrame, targets: list[float]) -> str:
    baselines = list(dict.fromkeys(comparison["baseline"]))
    lines = [
        "| FFN | " + " | ".join(f"− {TITLES[b]}" for b in baselines) + " |",
        "|---|" + "---|" * len(baselines),
    ]
    for ratio, rows in comparison.groupby("ratio"):
        by_name = rows.set_index("baseline")
        cells = []
        for baseline in baselines:
            difference, error = by_name.loc[baseline, ["difference", "stderr"]]
            cell = f"{difference:+.2f} ± {error:.2f}"
            cells.append(f"**{cell}**" if abs(difference) > 2 * error else cell)
        star = "" if np.isclose(ratio, targets).any() else " *"
        lines.append(f"| {100 * ratio:g} %{star} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _footprint_rows(results: Results) -> str:
    lines = [
        "| FFN | model | parameters | on disk | peak memory | latency a sample |",
        "|---|---|---|---|---|---|",
    ]
    for row in [results.dense | {"ratio": 0.0}, *lop_rows(results).to_dict("records")]:
        smaller = 1 - row["parameters"] / results.dense["parameters"]
        lines.append(
            f"| {100 * row['ratio']:g} % | {100 * smaller:.1f} % | {row['parameters']:,} "
            f"| {_mb(row['disk_bytes'])} MB | {_mb(row['peak_bytes'])} MB "
            f"| {row['latency_ms']:.1f} ms |"
        )
    return "\n".join(lines)


def _percent(row: dict[str, Any]) -> str:
    return f"{100 * row['accuracy']:.2f} ± {100 * row['stderr']:.2f}"


def _mb(size: float) -> str:
    return f"{size / 1e6:.2f}"
