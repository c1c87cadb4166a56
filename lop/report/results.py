"""Reads the results of the earlier stages, and makes the report's tables from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lop.evaluation.comparison import TASK, Comparison, check_keys
from lop.files import read_json
from lop.plan import site_names, written
from lop.report import benchmarks
from lop.reward.choice import FILE, Choice, read_choice
from lop.search.carried import CARRIED
from lop.search.shards import read_search

SEARCH = ["searcher", "target", "seed"]  # the columns that identify a search


@dataclass(frozen=True)
class Results:
    """Results of evaluation, search and training."""

    comparison: Comparison
    differences: pd.DataFrame  # LOP minus each baseline
    search: pd.DataFrame  # without plans carried between targets
    training: dict[str, float]
    plan_seconds: dict[str, float]  # by model name
    choice: Choice | None  # the score and compensation that `auto` means
    samples: Path | None  # directory of the questions

    @classmethod
    def read(
        cls,
        evaluation: Path,
        pruned: Path,
        search: Path,
        training: Path,
        samples: Path | None,
        scores: Path | None,
    ) -> Results:
        """Read the results of the stages; LopError if one is missing."""
        compared = Comparison.read(evaluation, pruned)
        learned = read_json(training / "metrics.json")
        numbers = dict.fromkeys(("samples", "predict_ms"), (int, float))
        check_keys(learned, numbers, f"{training}/metrics.json")
        timed = pruned.with_name(f"{pruned.name}.json")
        seconds = read_json(timed) if timed.is_file() else {}
        check_keys(seconds, dict.fromkeys(seconds, (int, float)), str(timed))
        searched = read_search(search)
        predicted = dict.fromkeys(compared.of("lop")["name"], learned["predict_ms"] / 1000)
        return cls(
            comparison=compared,
            differences=compared.differences("lop"),
            search=searched[searched["searcher"] != CARRIED],
            training=learned,
            plan_seconds=predicted | seconds,
            choice=read_choice(scores / FILE) if scores and (scores / FILE).exists() else None,
            samples=samples if samples and samples.is_dir() else None,
        )


def search_progress(samples: pd.DataFrame) -> pd.DataFrame:
    """Best reward so far in each search by simulation, for plans judged on all its samples."""
    ordered = samples[samples["share"] == 1].sort_values([*SEARCH, "simulation"])
    best = ordered.groupby(SEARCH)["reward"].cummax()
    return ordered.assign(best=best)[[*SEARCH, "simulation", "best", "seconds"]]


def times(results: Results) -> dict[str, float]:
    """Seconds to make a plan: by a search (mean), and by a prediction."""
    searches = results.search.groupby(SEARCH)["seconds"].max()
    return {"search": float(searches.mean()), "predict": results.training["predict_ms"] / 1000}


def headline_table(compared: Comparison) -> pd.DataFrame:
    """The headline figure as printed, by ratio and method, for `dvc plots`."""
    metric = compared.by.metric
    table = compared.table.assign(**{metric: compared.by.scale * compared.table[metric]})
    return table[["ratio", "method", metric]]


def plan_table(compared: Comparison) -> pd.DataFrame:
    """LOP's plans in long form, for `dvc plots`: ratio, site, pruned share."""
    rows = [
        {"ratio": row["ratio"], "site": site, "pruned": share}
        for row in compared.of("lop").to_dict("records")
        for site, share in zip(_sites(row), row["plan"], strict=True)
    ]
    return pd.DataFrame(rows)


def _sites(row: Mapping[str, Any]) -> list[str]:
    """The names of a plan's sites."""
    kinds = row.get("kinds") or ["ffn"] * len(row["plan"])
    layers = row.get("layers") or range(len(row["plan"]))
    return site_names(layers, kinds)


def column_table(compared: Comparison, column: benchmarks.Column) -> pd.DataFrame:
    """The printed figures of one column: method, ratio, value, stderr."""
    rows = []
    for row in compared.table.to_dict("records"):
        score = benchmarks.cell(compared, row["name"], column)
        figures = {"value": score.value, "stderr": score.stderr}
        rows.append({"method": row["method"], "ratio": row["ratio"]} | figures)
    return pd.DataFrame(rows)


def quality(compared: Comparison) -> tuple[str, pd.DataFrame]:
    """The title of a quality figure, and a table of it and the costs with a row for each model.

    The figure is the average of the paper's benchmarks or of their easy-VQA form, if evaluated;
    else the accuracy on lop's own questions, or the log-likelihood of texts. More is better.
    """
    title, chosen = "Accuracy (%)", [benchmarks.Column("", TASK, "accuracy")]
    if compared.by.task != TASK:
        title = "Log-likelihood a token (nats)"
        chosen = [benchmarks.Column("", compared.by.task, "loglik", scale=1)]
    for label in benchmarks.SUITES.values():
        columns = benchmarks.main_columns(compared, label)
        if benchmarks.has_average(columns):
            title, chosen = f"Average{label} (%)", [c for c in columns if c.averaged]
            break
    costs = ["parameters", "disk_bytes", "latency_ms"]
    dense = {"name": "dense", "method": "dense", "ratio": 0.0} | compared.dense
    rows = []
    for row in [dense, *compared.table.to_dict("records")]:
        score = benchmarks.mean([benchmarks.cell(compared, row["name"], c) for c in chosen])
        kept = {k: row[k] for k in ("name", "method", "ratio", *costs)}
        rows.append(kept | {"value": score.value, "stderr": score.stderr})
    return title, pd.DataFrame(rows)


def summary(results: Results) -> dict[str, Any]:
    """The numbers for `dvc metrics`."""
    ours, taken, by = results.comparison.of("lop"), times(results), results.comparison.by
    worst = "max" if by.lower else "min"
    return {
        "dense": {by.metric: results.comparison.dense[by.metric]},
        "lop": {written(r): a for r, a in zip(ours["ratio"], ours[by.metric], strict=True)},
        f"best_baseline_difference_{by.unit}": {
            written(float(str(ratio))): float(rows["difference"].agg(worst))
            for ratio, rows in results.differences.groupby("ratio")
        },
        "search_seconds": taken["search"],
        "predict_ms": 1000 * taken["predict"],
        "search_over_predict": taken["search"] / taken["predict"],
    }
