"""The step from search samples to a predictor."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lop.errors import LopError
from lop.files import Kind, check_dir, replacing_dir
from lop.importance import load_scores, made_for
from lop.predictor import PREDICTOR, PredictorConfig
from lop.predictor.training import good_samples, latency_ms, samples_fingerprint
from lop.predictor.training import train as fit
from lop.search import read_search
from lop.steps.searching import beginning

TRAINING = Kind("a learning curve", ("curve.csv", "metrics.json"))


def train(
    out: Path,
    curve_out: Path,
    search_dir: Path,
    scores_path: Path,
    seed: int,
    samples: Mapping[str, Any],
    network: Mapping[str, Any],
    fit_options: Mapping[str, Any],
    base: str = "uniform",
    profile_path: Path | None = None,
) -> tuple[dict[str, float], str]:
    """Write a predictor, its learning curve and metrics.

    `samples` are the options of `good_samples`, `network` those of `PredictorConfig`,
    `fit_options` those of `lop.predictor.training.train`; `base` names the plans that it learns to
    differ from, `uniform` or the `knapsack`'s.

    Returns the metrics, and the fingerprint of the samples it learned from.
    """
    for place, kind in ((out, PREDICTOR), (curve_out, TRAINING)):
        check_dir(place, kind, (search_dir, scores_path, profile_path))
    _check_options("train.samples", samples, good_samples)
    _check_options("train.network", network, PredictorConfig)
    _check_options("train.fit_options", fit_options, fit)
    good = good_samples(read_search(search_dir), **samples)
    config = PredictorConfig(
        widths=tuple(len(layer) for layer in load_scores(scores_path)),
        model_fingerprint=made_for(scores_path),
        min_ratio=float(good["target"].min()),
        max_ratio=float(good["target"].max()),
        base=base,
        **network,
    )
    profile = beginning(base, profile_path)
    curve: dict[int, dict[str, float]] = {}

    def log(name: str, value: float, epoch: int) -> None:
        curve.setdefault(epoch, {"epoch": epoch})[name] = value

    predictor = fit(good, config, seed, profile=profile, log=log, **fit_options)
    predictor.save_pretrained(out)
    table = pd.DataFrame(curve.values())
    metrics = {"samples": len(good), "predict_ms": latency_ms(predictor)}
    metrics |= table.ffill().iloc[-1].drop("epoch").to_dict()
    with replacing_dir(curve_out, TRAINING) as tmp:
        table.to_csv(tmp / "curve.csv", index=False)
        (tmp / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics, samples_fingerprint(good)


def _check_options(section: str, options: Mapping[str, Any], of: Callable[..., Any]) -> None:
    """Raise LopError for an option that `of` does not have."""
    known = inspect.signature(of).parameters
    if unknown := sorted(set(options) - set(known)):
        raise LopError(f"params, section {section}: no option {unknown[0]!r}")
