"""The report as Markdown and a web page, with its plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lop.evaluation.comparison import (
    TASK,
    TITLES,
    WHOLE,
    Comparison,
    bold,
    differences_markdown,
    markdown,
)
from lop.evaluation.timing import Paired
from lop.plan import RECOVERED, checkpoint_name, per_cent
from lop.report import benchmarks, plots
from lop.report.changes import changed, examples
from lop.report.html import write_page
from lop.report.lead import lead
from lop.report.questions import samples_file
from lop.report.results import (
    SEARCH,
    Results,
    column_table,
    headline_table,
    plan_table,
    quality,
    search_progress,
    summary,
    times,
)
from lop.reward.choice import Choice


def write_report(
    evaluation: Path,
    pruned: Path,
    search: Path,
    training: Path,
    out: Path,
    samples: Path | None = None,
    scores: Path | None = None,
) -> dict[str, Any]:
    """Write report.md, report.html, plots, and their tables as CSV to `out`.

    Returns the numbers for `dvc metrics`. Raises LopError if a result is missing.
    """
    results = Results.read(evaluation, pruned, search, training, samples, scores)
    compared, progress = results.comparison, search_progress(results.search)
    headline_table(compared).to_csv(out / f"{compared.by.metric}.csv", index=False)
    results.differences.to_csv(out / "comparison.csv", index=False)
    benchmarks.long_table(compared).to_csv(out / "benchmarks.csv", index=False)
    progress.to_csv(out / "search.csv", index=False)
    plan_table(compared).to_csv(out / "plans.csv", index=False)
    plots.plan_heat_map(compared.of("lop"), out / "plans.png")
    plots.search_progress(progress, out / "search.png")
    plots.times(times(results), out / "times.png")
    write_page(out, page(results, out))
    return summary(results)


def page(results: Results, out: Path) -> str:
    """The report as Markdown; the plots of its sections are written to `out`."""
    sections = [
        _introduction(results),
        lead(results.comparison, out),
        *(_benchmarks(results, title, label, out) for title, label in benchmarks.SUITES.items()),
        _headline(results, out),
        _recovery(results.comparison),
        _other_tasks(results.comparison),
        _savings(results.comparison),
        _pareto(results.comparison, out),
        "## Plans\n\nShare of each site's units that LOP removes.\n\n![plans](plans.png)",
        _changes(results, out),
        _choice(results),
        _search(results),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _introduction(results: Results) -> str:
    dense, by = results.comparison.dense, results.comparison.by
    shown = results.comparison.shown(dense)
    return f"""# lop report

Dense model: {by.title.lower()} {shown} on {dense["count"]:,} benchmark samples,
{dense["parameters"]:,} parameters, {_mb(dense["disk_bytes"])} MB, {dense["latency_ms"]:.1f} ms a
sample."""


def _choice(results: Results) -> str:
    """The score and compensation that `auto` chose, with the rewards of all candidates."""
    if not results.choice:
        return ""
    return f"""## Score

{str(results.choice).capitalize()} (reward `{results.choice.reward}`; higher is better).

{choice_table(results.choice)}"""


def choice_table(found: Choice) -> str:
    """Mean reward of each candidate's uniform plans, by ratio; the chosen candidate is bold."""
    ratios = sorted(found.ratios)
    lines = [["score", "compensated", *map(per_cent, ratios)], ["---"] * (2 + len(ratios))]
    by = {(one.score, one.compensate, one.ratio): one for one in found.table}
    for score, compensate in dict.fromkeys((one.score, one.compensate) for one in found.table):
        own = (score, compensate) == (found.score, found.compensate)
        cells = [by[score, compensate, ratio] for ratio in ratios]
        shown = [bold(f"{c.reward:.3f}", own) for c in cells]
        lines.append([score, "yes" if compensate else "no", *shown])
    return markdown(lines)


def _benchmarks(results: Results, title: str, label: str, out: Path) -> str:
    compared = results.comparison
    columns = benchmarks.main_columns(compared, label)
    if not columns:
        return ""
    lines = [f"## {title}"]
    if label:
        lines.append(
            "**These are not the published benchmarks.** Their questions are built from easy-VQA's "
            "annotations in the form of MME, MMBench, MMMU and POPE and are scored by the same "
            "rules; these figures cannot be compared with published figures."
        )
    counts = {c.task: compared.tasks[c.task]["count"] for c in columns}
    asked = ", ".join(f"{task} {count:,}" for task, count in counts.items())
    lines.append(
        f"Questions: {asked}. Figures ± standard error; MME-P and MME-R are sums of up to "
        "200 points for each subtask (at most 2000 and 800 in the published benchmarks), all other "
        "figures are per cent. **Bold** is the best of a ratio. ▼ marks a method that LOP exceeds "
        "by more than twice the standard error of the difference, paired by question (questions "
        "on one image together); ▲ marks a method that exceeds LOP by as much. The average is that "
        "of MMBench, MMMU and POPE, as in the paper; its error assumes that they are independent. "
        "*Plan in* is the time to make the plan, with scores, profile and predictor in memory."
    )
    lines.append(benchmarks.main_table(compared, columns, label, results.plan_seconds))
    names = []
    for column in columns:
        names.append(f"{column.task}-{column.metric}.png")
        _curve(compared, column, out / names[-1])
    lines.append("\n".join(f"![{n.removesuffix('.png')} against ratio]({n})" for n in names))
    if others := benchmarks.other_columns(compared, label):
        lines += ["### Further metrics", benchmarks.other_table(compared, others)]
    return "\n\n".join(lines)


def _headline(results: Results, out: Path) -> str:
    compared, by = results.comparison, results.comparison.by
    _curve(compared, benchmarks.Column(by.title, by.task, by.metric, by.scale),
           out / f"{by.metric}.png")  # fmt: skip
    targets = sorted(results.search["target"].unique())
    unit = "Per cent" if by.scale == 100 else by.title
    less = ", less is better" if by.lower else ""
    return f"""## {by.title} at each ratio

{unit} ± standard error{less}; **bold** is the best of a row. *ratio* is the removed share of the
parameters that can be pruned ({results.comparison.scope}), *model* the removed share of all
parameters. All methods keep the same number of parameters and answer the same questions.

{compared.markdown()}

![{by.metric} against ratio]({by.metric}.png)

## LOP against each baseline

Difference in {by.unit} on the same samples ± paired standard error; **bold** if it exceeds twice
that error. Ratios marked * were not targets of a search: LOP's plans there are predictions only.
This is one draw of samples and seeds: it describes this predictor, and not yet the method.

{differences_markdown(results.differences, targets)}"""


def _recovery(compared: Comparison) -> str:
    """LOP's checkpoints before and after recovery, with their sizes and speeds."""
    after = compared.of(f"lop{RECOVERED}").to_dict("records")
    if not after or not compared.recovered:
        return ""
    by, pairs = compared.by, [("dense", WHOLE, compared.dense, compared.recovered, 0.0)]
    for row in after:
        name = checkpoint_name("lop", row["ratio"])
        before = compared.table[compared.table["name"] == name].to_dict("records")
        pairs += [(name, row["name"], of, row, row["ratio"]) for of in before]
    head = ["ratio", "on disk", "times as fast", "in batches", "before", "after", "difference"]
    lines = [head, ["---"] * len(head)]
    for a, b, before, now, ratio in pairs:
        found, error = compared.difference(b, a, by.task, by.metric)
        cell = f"{by.scale * found:+.{by.digits}f} ± {by.scale * error:.{by.digits}f}"
        speeds = ("speedup", "batch_speedup")
        fast = [_times(now, of) if ratio and now.get(of) else "–" for of in speeds]
        shown = [compared.shown(before), compared.shown(now)]
        size = f"{_mb(now['disk_bytes'])} MB"
        lines.append([per_cent(ratio), size, *fast, *shown, bold(cell, abs(found) > 2 * error)])
    return f"""## Before and after recovery

LOP's plans, cut from the original weights and from the weights that recovery trained once for all
ratios. {by.title} ± standard error; differences are paired, and **bold** if they exceed twice their
error.

{markdown(lines)}"""


def _other_tasks(compared: Comparison) -> str:
    columns = benchmarks.further_tasks(compared)
    if not columns:
        return ""
    return f"""## Other tasks

The primary metric of each task ± standard error; benchmarks.csv has all metrics, with LOP's paired
differences.

{benchmarks.other_table(compared, columns)}"""


def _curve(compared: Comparison, column: benchmarks.Column, path: Path) -> None:
    dense = benchmarks.cell(compared, "dense", column).value
    axis = f"{column.title} ({column.unit})"
    plots.curves(column_table(compared, column), dense, TITLES, axis, path)


def _savings(compared: Comparison) -> str:
    dense, rows = compared.dense, compared.of("lop").to_dict("records")
    timed = all(row.get("speedup") for row in rows)
    head = ["ratio", "model", "parameters", "on disk", "peak memory", "latency a sample"]
    head += ["times as fast", f"in batches of {dense.get('batch')}", "FLOPs promise"] * timed
    lines = [head, ["---"] * len(head)]
    for row in [dense | {"ratio": 0.0}, *rows]:
        smaller = 1 - row["parameters"] / dense["parameters"]
        sizes = [f"{_mb(row['disk_bytes'])} MB", f"{_mb(row['peak_bytes'])} MB"]
        shares = [per_cent(row["ratio"]), f"{100 * smaller:.1f} %"]
        cells = [*shares, f"{row['parameters']:,}", *sizes, f"{row['latency_ms']:.1f} ms"]
        if timed and not row["ratio"]:
            cells += ["1"] * 3
        elif timed:
            promised = dense["flops_per_token"] / row["flops_per_token"]
            cells += [_times(row, "speedup"), _times(row, "batch_speedup"), f"{promised:.2f}"]
        lines.append(cells)
    return f"""## What the cut saves (LOP)

{markdown(lines)}

Latency is the median over single samples, including processor and greedy generation. Peak memory is
that of the process ({dense["peak_of"]}) minus its memory before loading; it says little for a model
this small.{SPEED if timed else ""}"""


SPEED = """ *Times as fast* is relative to the dense model: both answer the same samples in turn,
without other load on the machine. The brackets span the middle half of the pairs; *noise* means
that they include 1. FLOPs per token are two for each weight of the language model's linear maps."""


def _times(row: Any, name: str) -> str:
    return str(Paired(row[name], row[f"{name}_low"], row[f"{name}_high"]))


def _pareto(compared: Comparison, out: Path) -> str:
    title, points = quality(compared)
    points["megabytes"] = points["disk_bytes"] / 1e6
    costs = {"megabytes": "On disk (MB)", "latency_ms": "Latency a sample (ms)"}
    for cost, axis in costs.items():
        plots.pareto(points, cost, TITLES, (axis, title), out / f"pareto-{cost}.png")
    points.to_csv(out / "pareto.csv", index=False)
    fronts = [plots.pareto_front(points, cost)["name"] for cost in costs]
    return f"""## What is worth its cost

Quality and cost of every model. No other model is both cheaper and better than a model on the line.
Differences within the error bars, and milliseconds within the timing noise, decide nothing. The
models on the line are {", ".join(fronts[0])} by size, and {", ".join(fronts[1])} by latency.

![quality against size](pareto-megabytes.png)
![quality against latency](pareto-latency_ms.png)"""


def _changes(results: Results, out: Path) -> str:
    compared = results.comparison
    if compared.by.task != TASK:
        return ""
    text = f"""## What changes when LOP prunes

Answers to the {compared.dense["count"]:,} questions, compared with the dense model's:

{changed(compared, "lop")}"""
    if results.samples is None or not samples_file(results.samples, TASK).is_file():
        return text
    table = examples(compared, "lop", results.samples, out)
    return (
        text
        + f"""

Questions that are lost at the highest ratio: the first of each category by id, then the second, and
so on, without any other selection. Wrong answers are in **bold**. `lop diff` shows all of them.

{table}"""
        if table
        else text
    )


def _search(results: Results) -> str:
    taken, searches = times(results), results.search.groupby(SEARCH).ngroups
    return f"""## Search

{searches} searches evaluated {len(results.search):,} plans; the predictor learned from
{results.training["samples"]:.0f} of them.

![search progress](search.png)

A search takes {taken["search"]:.1f} s (mean), a prediction {1000 * taken["predict"]:.2f} ms on one
core: it is {taken["search"] / taken["predict"]:,.0f} times faster.

![time to a plan](times.png)"""


def _mb(size: float) -> str:
    return f"{size / 1e6:.2f}"
