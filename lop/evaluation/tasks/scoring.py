"""Computes a benchmark's official metrics from answers, each with a standard error.

A scorer first turns answers into additive numbers, one row for each group (questions that are
scored together: a pair of questions, a question with all its rotations), then computes metrics from
their sums.

Every standard error is a jackknife over pictures: questions about one picture are not independent,
so they are left out together. For a mean with one question per picture it is the usual s/√n. It is
also valid for ratios and sums such as F1 or MME's score, and needs no random draws. (Efron and
Tibshirani, An Introduction to the Bootstrap, ch. 11.) `lop.evaluation.paired` uses it for
differences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from lop.errors import LopError

_ASKED = ["id", "group", "picture", "category", "prompt_hash"]
COLUMNS = [*_ASKED, "answer", "prediction", "correct"]
TEXT_COLUMNS = [*_ASKED, "loglik", "tokens"]

# Subtasks of MME and the ceiling of 200 points each: arXiv 2306.13394, section 2.
MME = {
    "perception": (
        "existence", "count", "position", "color", "posters",
        "celebrity", "scene", "landmark", "artwork", "OCR",
    ),
    "cognition": (
        "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning",
    ),
}  # fmt: skip
EASYVQA_MME = {
    "perception": ("colour", "shape"),
    "cognition": ("negated_colour", "negated_shape"),
}
POPE = ("random", "popular", "adversarial")
ROTATION = 1_000_000  # MMBench: index modulo this is the question, above it a rotation of choices

Sums = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Scorer:
    """How answers become metrics.

    `parts(rows)` has a row for each group and a column for each additive number. `figures(sums)`
    computes the metrics from the sums of the columns, arrays of the same shape. `primary` is the
    metric that compares models, "" for the first one. Rows have `columns`; any columns if that is
    empty. For the metrics in `lower`, lower is better.
    """

    parts: Callable[[pd.DataFrame], pd.DataFrame]
    figures: Callable[[Sums], dict[str, np.ndarray]]
    primary: str
    columns: Sequence[str] = tuple(COLUMNS)
    lower: frozenset[str] = frozenset()

    def clusters(self, rows: pd.DataFrame) -> pd.DataFrame:
        """`parts` summed over each picture, in the same order for every model.

        Rows without a picture column have one cluster for each group.
        """
        parts = self.parts(rows)
        groups = parts.index.get_level_values(-1)
        if "picture" in rows:
            groups = groups.map(rows.drop_duplicates("group").set_index("group")["picture"])
        return parts.groupby(groups.to_numpy()).sum()

    def figure(self, sums: Sums, name: str) -> np.ndarray:
        """One of the metrics, or LopError."""
        found = self.figures(sums)
        if name not in found:
            raise LopError(f"metric {name!r}: expected one of {', '.join(found)}")
        return found[name]

    def without(self, clusters: pd.DataFrame) -> dict[str, np.ndarray]:
        """Every metric, with each cluster left out in turn."""
        return self.figures(clusters.sum() - clusters)


def jackknife(without: np.ndarray) -> float:
    """The standard error of a metric from its values without each cluster; nan for a single
    cluster."""
    n = len(without)
    variance = (n - 1) / n * np.square(without - without.mean()).sum() if n > 1 else np.nan
    return float(np.sqrt(variance))


def score(scorer: Scorer, rows: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Every metric as {"value", "stderr"}; rows have the scorer's columns except prompt_hash.

    A single picture gives no standard error. Raises LopError for no rows.
    """
    if rows.empty:
        raise LopError("no answers to score")
    clusters = scorer.clusters(rows)
    values, without = scorer.figures(clusters.sum()), scorer.without(clusters)
    errors = {name: jackknife(without[name]) if len(clusters) > 1 else None for name in values}
    return {name: {"value": float(values[name]), "stderr": errors[name]} for name in values}


def _ratio(part: Any, whole: Any) -> np.ndarray:
    """part / whole, and 0 where whole is 0."""
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _accuracy_parts(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {"right": rows["correct"].astype(float).to_numpy(), "all": 1.0}, rows["group"]
    )


def _accuracy(sums: Sums) -> dict[str, np.ndarray]:
    return {"accuracy": _ratio(sums["right"], sums["all"])}


ACCURACY = Scorer(_accuracy_parts, _accuracy, primary="accuracy")


def _text_parts(rows: pd.DataFrame) -> pd.DataFrame:
    """Log-likelihood and number of the tokens of each document."""
    return rows.groupby("group", sort=False)[["loglik", "tokens"]].sum().astype(float)


def _text(sums: Sums) -> dict[str, np.ndarray]:
    """Mean log-likelihood a token, in nats, and the perplexity."""
    loglik = _ratio(sums["loglik"], sums["tokens"])
    return {"perplexity": np.exp(-loglik), "loglik": loglik}


TEXT = Scorer(
    _text_parts, _text, "perplexity", tuple(TEXT_COLUMNS), lower=frozenset({"perplexity"})
)


def _means_parts(rows: pd.DataFrame) -> pd.DataFrame:
    """Sums and counts of every column of numbers, by group."""
    numbers = rows.select_dtypes("number")
    counts = numbers.notna().astype(float).add_suffix(COUNT)
    return pd.concat([numbers.fillna(0.0), counts], axis=1).groupby(rows["group"].to_numpy()).sum()


def _means(sums: Sums) -> dict[str, np.ndarray]:
    """The mean of each column; a column with weights is a log-likelihood and gives a perplexity or
    bits, as in lm-eval."""
    names = [name.removesuffix(COUNT) for name in sums.keys() if name.endswith(COUNT)]  # noqa: SIM118
    found = {}
    for name in [name for name in names if not name.endswith(WEIGHT)]:
        if f"{name}{WEIGHT}" not in names:
            found[name] = _ratio(sums[name], sums[f"{name}{COUNT}"])
            continue
        nats = -_ratio(sums[name], sums[f"{name}{WEIGHT}"])
        found[name] = nats / np.log(2) if name.startswith("bits_") else np.exp(nats)
    return found


COUNT, WEIGHT = " count", " weight"
# for lm-eval's own tasks: all numeric columns
MEANS = Scorer(_means_parts, _means, primary="", columns=())


def accuracy_error(rows: pd.DataFrame) -> float:
    """The standard error of the accuracy; nan for a single picture."""
    return jackknife(ACCURACY.without(ACCURACY.clusters(rows))["accuracy"])


def mme(halves: Mapping[str, tuple[str, ...]]) -> Scorer:
    """MME's scores over the subtasks of `halves`: {"perception": names, "cognition": names}.

    A subtask's score is 100 · accuracy + 100 · accuracy_plus, where plus is the share of images
    with both questions right (arXiv 2306.13394, section 2.3). `perception` and `cognition` are sums
    over their subtasks, `score` is the sum of both. An image with one of its questions missing
    counts as an image without two right answers.
    """
    subtasks = [name for names in halves.values() for name in names]

    def parts(rows: pd.DataFrame) -> pd.DataFrame:
        if unknown := sorted(set(rows["category"]) - set(subtasks)):
            raise LopError(f"MME has no subtask {unknown[0]!r}; it has {', '.join(subtasks)}")
        by_image = rows.groupby(["category", "group"], sort=False)["correct"]
        table = pd.DataFrame({"right": by_image.sum(), "all": by_image.size()}).astype(float)
        table["plus"] = ((table["right"] == table["all"]) & (table["all"] == 2)).astype(float)
        table["images"] = 1.0
        category = table.index.get_level_values("category")
        return pd.DataFrame(
            {
                f"{name} {column}": table[column].where(category == name, 0.0)
                for name in subtasks
                for column in table
            }
        )

    def figures(sums: Sums) -> dict[str, np.ndarray]:
        of = {
            name: 100 * _ratio(sums[f"{name} right"], sums[f"{name} all"])
            + 100 * _ratio(sums[f"{name} plus"], sums[f"{name} images"])
            for name in subtasks
        }
        found = {half: sum(of[name] for name in names) for half, names in halves.items()}
        right = sum(sums[f"{name} right"] for name in subtasks)
        asked = sum(sums[f"{name} all"] for name in subtasks)
        all_ = {"score": sum(found.values()), **found, "accuracy": _ratio(right, asked), **of}
        return {name: np.asarray(value) for name, value in all_.items()}

    return Scorer(parts, figures, primary="score")


_OUTCOMES = {"tp": ("yes", "yes"), "fp": ("no", "yes"), "tn": ("no", "no"), "fn": ("yes", "no")}


def _pope_parts(rows: pd.DataFrame) -> pd.DataFrame:
    """Outcomes by image and split; the prediction of a row is yes or no."""
    if unknown := sorted(set(rows["category"]) - set(POPE)):
        raise LopError(f"POPE has no split {unknown[0]!r}; it has {', '.join(POPE)}")
    pair = rows["answer"] + " " + rows["prediction"]
    columns = {
        f"{split} {name}": ((rows["category"] == split) & (pair == " ".join(both))).astype(float)
        for split in POPE
        for name, both in _OUTCOMES.items()
    }
    return pd.DataFrame(columns).groupby(rows["group"].to_numpy(), sort=False).sum()


def _pope(sums: Sums) -> dict[str, np.ndarray]:
    found = _confusion({n: sum(sums[f"{split} {n}"] for split in POPE) for n in _OUTCOMES})
    for split in POPE:
        of = _confusion({name: sums[f"{split} {name}"] for name in _OUTCOMES})
        found |= {f"{name}_{split}": value for name, value in of.items()}
    return found


def _confusion(n: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Metrics with `yes` as the positive answer; 0 where the denominator is 0."""
    return {
        "accuracy": _ratio(n["tp"] + n["tn"], n["tp"] + n["fp"] + n["tn"] + n["fn"]),
        "precision": _ratio(n["tp"], n["tp"] + n["fp"]),
        "recall": _ratio(n["tp"], n["tp"] + n["fn"]),
        "f1": _ratio(2 * n["tp"], 2 * n["tp"] + n["fp"] + n["fn"]),
        "yes_ratio": _ratio(n["tp"] + n["fp"], n["tp"] + n["fp"] + n["tn"] + n["fn"]),
    }


# Over all splits together, and of each: evaluate.py of github.com/AoiDragon/POPE.
POPE_SCORER = Scorer(_pope_parts, _pope, primary="f1")


def _mmbench_parts(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each question: right in the first order, and right under every rotation of its
    choices."""
    first = rows["id"] == rows["group"]
    by_question = rows.groupby("group", sort=False)["correct"]
    once = rows[first].groupby("group", sort=False)["correct"].all()
    questions = by_question.all().index
    return pd.DataFrame(
        {
            "once": once.reindex(questions, fill_value=False).astype(float),
            "every": by_question.all().astype(float),
            "asked": questions.isin(once.index).astype(float),
            "all": 1.0,
        },
        index=questions,
    )


def _mmbench(sums: Sums) -> dict[str, np.ndarray]:
    return {
        "accuracy": _ratio(sums["once"], sums["asked"]),
        "circular": _ratio(sums["every"], sums["all"]),
    }


# CircularEval: arXiv 2307.06281, section 4.1.
MMBENCH = Scorer(_mmbench_parts, _mmbench, primary="circular")


def best(logliks: list[float]) -> int | None:
    """The index of the most likely choice; None for a tie or nan."""
    values = np.asarray(logliks, float)
    if np.isnan(values).any():
        return None
    top = np.flatnonzero(values == values.max())
    return int(top[0]) if len(top) == 1 else None


def aggregate(scorer: Scorer, figure: str) -> Callable[[list[dict[str, Any]]], float]:
    """An lm-eval aggregation: one metric from the rows of `process_results`."""

    def over(rows: list[dict[str, Any]]) -> float:
        table = pd.DataFrame(rows)
        return float(scorer.figure(scorer.parts(table).sum(), figure))

    return cast(Callable[[list[dict[str, Any]]], float], over)
