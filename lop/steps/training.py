"""The step from search samples to a predictor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lop.errors import LopError
from lop.files import Kind, check_dir, replacing_dir
from lop.importance import made_for
from lop.predictor import PREDICTOR, PredictorConfig
from lop.predictor.training import gains, good_samples, latency_ms, samples_fingerprint
from lop.predictor.training import train as fit
from lop.profile import Profile, beginning, solve
from lop.search.shards import check_fits, read_search
from lop.settings import Fit, Learned, Network, check

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

    `samples`, `network` and `fit_options` are the sections of params.yaml, with its defaults.
    `base` is `uniform` or `knapsack`: the predictor learns differences from these plans. Raises
    LopError for unknown settings.

    Returns the metrics and the fingerprint of the samples. `gain_0.3` in the metrics is the mean
    gain of the training plans at target 0.3 over the search's root; 0 if no plan was significantly
    better.
    """
    for folder, kind in ((out, PREDICTOR), (curve_out, TRAINING)):
        check_dir(folder, kind, (search_dir, scores_path, profile_path))
    chosen = check(Learned, samples, "train.samples").model_dump()
    network = check(Network, network, "train.network").model_dump()
    fit_options = check(Fit, fit_options, "train.fit_options").model_dump()
    searched = read_search(search_dir)
    space, model = made_for(scores_path)
    check_fits(searched, space, model)
    good = good_samples(searched, **chosen)
    profile = beginning(base, profile_path)
    if profile:
        _check_roots(searched, profile)
        good["plan"] = good["plan"].where(good["gain"] > 0, None)  # None: exactly the base's plan
    config = PredictorConfig(
        space=space,
        model_fingerprint=model,
        min_ratio=float(good["target"].min()),
        max_ratio=float(good["target"].max()),
        base=base,
        **network,
    )
    curve: dict[int, dict[str, float]] = {}

    def log(name: str, value: float, epoch: int) -> None:
        curve.setdefault(epoch, {"epoch": epoch})[name] = value

    predictor = fit(good, config, seed, profile=profile, log=log, **fit_options)
    predictor.save_pretrained(out)
    table = pd.DataFrame(curve.values())
    metrics = {"samples": len(good), "predict_ms": latency_ms(predictor)}
    metrics |= {f"gain_{target:g}": gain for target, gain in gains(good).items()}
    metrics |= table.ffill().iloc[-1].drop("epoch").to_dict()
    with replacing_dir(curve_out, TRAINING) as tmp:
        table.to_csv(tmp / "curve.csv", index=False)
        (tmp / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics, samples_fingerprint(good)


def _check_roots(searched: pd.DataFrame, profile: Profile) -> None:
    """Raise LopError unless the searches started from the profile's plans: gains are relative to
    these."""
    firsts = searched.sort_values("simulation", kind="stable").groupby("target").head(1)
    for target, kept in zip(firsts["target"], firsts["kept"], strict=True):
        if tuple(kept) != solve(profile, target).kept:
            raise LopError(
                f"searches of target {target:g} did not start at this profile's knapsack plan, so "
                "their gains are over another plan: search with this profile, or train without it"
            )
