"""What `benchmarks.predictors` found, as a page, its tables as CSV, and a plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lop import plots
from lop.comparison import markdown
from lop.files import Kind, replacing_dir

REFERENCES = ("search", "knapsack", "uniform")
RESULTS = Kind("the page of predictors", ("predictors.md", "learning.csv"))
AIM = 1.0  # per cent below a full search, at most


def write_results(judged: pd.DataFrame, unseen: Sequence[float], out: Path) -> None:
    """Write predictors.md, a CSV a table and learning.png to the directory `out`.

    `judged` has a row a (predictor, ratio), with `correct` and `loglik` (N,) on the validation set;
    so have uniform plans (`part` uniform), the knapsack's, and full searches (search).
    """
    seen = sorted(set(judged["ratio"]) - set(unseen))
    learning = judged[judged["part"] == "learning"].astype({"targets": int, "simulations": int})
    tables = {
        "ratios": ratio_table(judged, unseen),
        "unseen": pd.concat([references(judged, unseen), choices(judged, unseen)]),
        "seen": pd.concat([references(judged, seen), choices(judged, seen)]),
        "learning": summaries(learning, ["targets", "simulations"], judged, unseen),
    }
    with replacing_dir(out, RESULTS) as tmp:
        for name, table in tables.items():
            table.to_csv(tmp / f"{name}.csv", index=False, float_format="%.4f")
        learning_curve(tables["learning"], tables["unseen"], tmp / "learning.png")
        count = len(judged["correct"].iloc[0])
        (tmp / "predictors.md").write_text(page(**tables, questions=count, seeds=_seeds(learning)))


def choices(judged: pd.DataFrame, ratios: Sequence[float]) -> pd.DataFrame:
    """A row a (network, sample choice)."""
    return summaries(judged[judged["part"] == "choices"], ["kind", "samples"], judged, ratios)


def references(judged: pd.DataFrame, ratios: Sequence[float]) -> pd.DataFrame:
    """The same rows for full searches at the very ratios, for the knapsack's and uniform plans."""
    rows = judged[judged["part"].isin(REFERENCES)]
    rows = rows.assign(kind=rows["part"], samples="", plans=0)
    return summaries(rows, ["kind", "samples"], judged, ratios).assign(aim="")


def summaries(
    rows: pd.DataFrame, by: list[str], judged: pd.DataFrame, ratios: Sequence[float]
) -> pd.DataFrame:
    """`summary` of each group of rows."""
    search, uniform = (judged[judged["part"] == part] for part in ("search", "uniform"))
    return pd.DataFrame(
        {
            **dict(zip(by, key, strict=True)),
            "plans": int(group["plans"].iloc[0]),
            **summary(*(table[table["ratio"].isin(ratios)] for table in (group, search, uniform))),
        }
        for key, group in rows.groupby(by, sort=False)
    )


def summary(rows: pd.DataFrame, search: pd.DataFrame, uniform: pd.DataFrame) -> dict[str, Any]:
    """Means over ratios and seeds; `_spread` is the standard deviation over seeds.

    A gap is what is lost against a full search (the mean over its seeds), in per cent of the
    search: 1 − a/a' in accuracy, and 1 − exp(ℓ − ℓ') in mean log-likelihood ℓ, which is the same of
    the geometric mean of the right answers' probability.
    """
    correct, loglik = _answers(rows, "correct"), _answers(rows, "loglik")
    best_correct, best_loglik = (_answers(search, c).mean(0) for c in ("correct", "loglik"))
    accuracy, best_accuracy = correct.mean(-1), best_correct.mean(-1)
    gaps = {
        "accuracy": 100 * (1 - accuracy / best_accuracy),
        "likelihood": 100 * (1 - np.exp(loglik.mean(-1) - best_loglik.mean(-1))),
    }
    # of the same questions, so that most of their difficulty cancels
    per_question = 100 * (correct.mean(0) - best_correct).mean(0) / best_accuracy.mean()
    above = {
        "accuracy": 100 * (accuracy - _answers(uniform, "correct").mean(-1)).min(),
        "loglik": (loglik - _answers(uniform, "loglik")).mean(-1).min(),
    }
    found: dict[str, Any] = _over_seeds("accuracy", 100 * accuracy)
    found |= _over_seeds("loglik", loglik.mean(-1))
    for name, gap in gaps.items():
        found |= _over_seeds(f"{name}_gap", gap) | {f"{name}_gap_worst": gap.mean(0).max()}
    found["accuracy_gap_stderr"] = per_question.std(ddof=1) / np.sqrt(len(per_question))
    found |= {f"{name}_above_uniform": least for name, least in above.items()}
    in_accuracy = gaps["accuracy"].mean(0).max() <= AIM and above["accuracy"] >= 0
    in_likelihood = gaps["likelihood"].mean(0).max() <= AIM and above["loglik"] >= 0
    met = {"accuracy": in_accuracy, "likelihood": in_likelihood}
    return found | {"aim": " and ".join(name for name, yes in met.items() if yes) or "no"}


def ratio_table(judged: pd.DataFrame, unseen: Sequence[float]) -> pd.DataFrame:
    """A row a ratio: accuracy and log-likelihood of the uniform plan and of a full search."""
    rows = []
    for ratio in sorted(set(judged["ratio"])):
        row: dict[str, Any] = {"ratio": ratio, "seen": ratio not in unseen}
        for part in ("uniform", "search"):
            here = judged[(judged["part"] == part) & (judged["ratio"] == ratio)]
            row |= _over_seeds(f"{part}_accuracy", 100 * _answers(here, "correct").mean(-1))
            row |= _over_seeds(f"{part}_loglik", _answers(here, "loglik").mean(-1))
        rows.append(row)
    return pd.DataFrame(rows)


def learning_curve(learning: pd.DataFrame, unseen: pd.DataFrame, path: Path) -> None:
    """Validation reward at unseen ratios by plans searched in all, a line a number of targets."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    levels = unseen.set_index("kind")["loglik"]
    colours = ("#6c757d", plots.COLOURS["lop"], "#3d7ea6", "#5a9367")
    with plots.picture(path) as (_, axes):
        axes.axhline(levels["search"], color="black", lw=0.8, ls=":", label="Full search there")
        axes.axhline(levels["knapsack"], color="black", lw=0.8, ls="--", label="Knapsack")
        for (count, rows), colour in zip(learning.groupby("targets"), colours, strict=False):
            label, style = f"{count} targets", {"marker": "o", "ms": 4, "capsize": 2, "lw": 1.8}
            line = (rows["plans"], rows["loglik"], rows["loglik_spread"])
            axes.errorbar(*line, label=label, color=colour, **style)
        axes.set(xscale="log", xlabel="Plans searched in all")
        axes.minorticks_off()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set(ylabel="Mean log-likelihood at unseen ratios")
        axes.legend(frameon=False, fontsize=8)


def page(
    ratios: pd.DataFrame,
    unseen: pd.DataFrame,
    seen: pd.DataFrame,
    learning: pd.DataFrame,
    questions: int,
    seeds: int,
) -> str:
    """The page as Markdown."""
    enough = learning[learning["aim"] != "no"].sort_values("plans")
    fewest = "no predictor here"
    if len(enough):
        best = enough.iloc[0]
        fewest = f"{best['plans']:,} plans ({best['targets']} targets of {best['simulations']})"
    listed = ", ".join(f"{100 * r:g} %" for r in ratios.loc[~ratios["seen"], "ratio"])
    error = unseen.loc[
        ~unseen["kind"].isin(["search", "knapsack", "uniform"]), "accuracy_gap_stderr"
    ].median()
    return f"""# What makes a good predictor

Made by `python -m benchmarks.predictors` on the reference model. Scores come from the calibration
set and rewards from the reward set; all numbers here are of {questions} validation questions.
Unseen ratios, {listed}, are in nobody's targets.

*Gap*: what a predicted plan loses against a full search at that very ratio, whose best plan by
reward is asked the same questions; mean over the search's seeds. In accuracy it is 1 − a/a'. A
log-likelihood has no zero to be relative to, so its gap is 1 − exp(ℓ − ℓ'): the same of the right
answers' probability (geometric mean). Negative: the prediction was better. *Worst* is the ratio
with the largest gap, *over uniform* the smallest gain over a uniform plan at any ratio and seed, in
points of accuracy. *Aim*: the scale on which no ratio's gap is above {AIM:g} % and nothing is below
uniform.

Numbers are mean ± standard deviation over {seeds} seeds, of search and training together; where
samples are of all seeds, of training alone. Besides, a gap in accuracy has a sampling error of
about {error:.2f} % (paired, {questions} questions).

## What there is to gain

{_ratio_rows(ratios)}

## Network and samples, at unseen ratios

{_choice_rows(unseen)}

## The same at searched ratios

{_choice_rows(seen)}

## How many targets

Gap in accuracy / in likelihood at unseen ratios, in per cent. Learned from: the best tenth of each
target's plans.

{_target_rows(learning)}

## How few simulations

{_learning_rows(learning)}

The aim was met, on either scale, from: {fewest}.

![learning curve](learning.png)
"""


def _ratio_rows(table: pd.DataFrame) -> str:
    rows = [
        [
            f"{100 * r['ratio']:g} %{'' if r['seen'] else ' *'}",
            f"{r['uniform_accuracy']:.2f}",
            _spread(r, "search_accuracy", 2),
            f"{r['uniform_loglik']:.4f}",
            _spread(r, "search_loglik", 4),
        ]
        for r in table.to_dict("records")
    ]
    heads = ["ratio (* unseen)", "uniform, accuracy %", "search, accuracy %"]
    return _markdown([*heads, "uniform, log-likelihood", "search, log-likelihood"], rows)


_NUMBERS = ["accuracy %", "log-likelihood", "gap, accuracy %", "gap, likelihood %"]
_NUMBERS += ["worst, accuracy / likelihood", "over uniform", "aim"]


def _numbers(row: dict[str, Any]) -> list[str]:
    return [
        _spread(row, "accuracy", 2),
        _spread(row, "loglik", 4),
        _spread(row, "accuracy_gap", 2),
        _spread(row, "likelihood_gap", 2),
        f"{row['accuracy_gap_worst']:z.2f} / {row['likelihood_gap_worst']:z.2f}",
        f"{row['accuracy_above_uniform']:+z.2f}",
        row["aim"],
    ]


def _choice_rows(table: pd.DataFrame) -> str:
    rows = [
        [r["kind"], r["samples"], f"{r['plans']:,}" if r["plans"] else "", *_numbers(r)]
        for r in table.to_dict("records")
    ]
    return _markdown(["network", "samples", "plans searched", *_NUMBERS], rows)


def _learning_rows(table: pd.DataFrame) -> str:
    rows = [
        [str(r["targets"]), str(r["simulations"]), f"{r['plans']:,}", *_numbers(r)]
        for r in table.to_dict("records")
    ]
    return _markdown(["targets", "simulations", "plans searched", *_NUMBERS], rows)


def _target_rows(table: pd.DataFrame) -> str:
    cells = [
        f"{r['accuracy_gap']:z.2f} / {r['likelihood_gap']:z.2f}" for r in table.to_dict("records")
    ]
    pivot = table.assign(cell=cells).pivot(index="targets", columns="simulations", values="cell")
    heads = ["targets", *(f"{n} simulations" for n in pivot.columns)]
    return _markdown(heads, [[str(n), *row] for n, *row in pivot.fillna("").itertuples()])


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return markdown([list(heads), ["---"] * len(heads), *map(list, rows)])


def _spread(row: dict[str, Any], name: str, digits: int) -> str:
    return f"{row[name]:z.{digits}f} ± {row[f'{name}_spread']:.{digits}f}"


def _over_seeds(name: str, values: np.ndarray) -> dict[str, float]:
    """(S, R) -> mean, and spread over seeds of the mean over ratios; one seed has none."""
    by_seed = values.mean(1)
    spread = by_seed.std(ddof=1) if len(by_seed) > 1 else 0.0
    return {name: float(by_seed.mean()), f"{name}_spread": float(spread)}


def _answers(rows: pd.DataFrame, column: str) -> np.ndarray:
    """(seeds, ratios, questions)."""
    ordered = rows.sort_values(["seed", "ratio"])
    seeds, ratios = ordered["seed"].nunique(), ordered["ratio"].nunique()
    return np.stack(ordered[column].to_list()).reshape(seeds, ratios, -1).astype(float)


def _seeds(rows: pd.DataFrame) -> int:
    return rows["seed"].nunique()
