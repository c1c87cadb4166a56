"""The step that trains a model's weights to be good at every budget."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lop.data.samples import check_apart, read_samples
from lop.files import check_dir, replacing
from lop.models.checkpoint import SAVED, load, load_processor
from lop.recovery.files import save_recovered
from lop.recovery.state import STATE
from lop.recovery.training import recover as train
from lop.settings import Recovery, check
from lop.steps.pruning import Cutter

LOW, HIGH = 0.1, 0.8  # the range of ratios that training draws, if no predictor has its own range


def recover(
    out: Path,
    curve_out: Path,
    samples_path: Path,
    cutter: Cutter,
    settings: Recovery,
    apart: Sequence[Path] = (),
) -> dict[str, float]:
    """Train the cutter's model at the plans of `settings.methods`, and write it to `out`.

    Writes curve.csv and metrics.json to `curve_out`, and during training the state from which a
    killed run resumes. Returns the metrics. Raises LopError if the samples share a picture with a
    table of `apart`, such as a benchmark.
    """
    check_dir(out, SAVED, (*cutter.inputs, samples_path))
    samples = read_samples(samples_path)
    for path in apart:
        check_apart(samples, read_samples(path), str(path))
    settings = _in_range(settings, cutter)
    plans = [cutter.planner(name) for name in settings.methods]
    scores = cutter.scores[cutter.scored.score]
    model, processor = load(cutter.model_path), load_processor(cutter.model_path)
    begun = time.monotonic()
    curve = train(model, processor, samples, scores, plans, settings, curve_out)
    metrics = {
        "seconds": time.monotonic() - begun,  # of this run, without earlier killed runs
        "loss_first": _mean(curve.head(20)),
        "loss_last": _mean(curve.tail(20)),
    }
    record = {
        "recovered_from": cutter.source.fingerprint,
        "score": cutter.scored.score,
        "scope": cutter.space.scope,
        "samples": len(samples),
        "settings": settings.model_dump(),
    }
    save_recovered(out, model, processor, record)
    curve_out.mkdir(parents=True, exist_ok=True)
    with replacing(curve_out / "curve.csv") as tmp:
        curve.to_csv(tmp, index=False, float_format="%.6g")
    with replacing(curve_out / "metrics.json") as tmp:
        tmp.write_text(json.dumps(metrics, indent=2) + "\n")
    (curve_out / STATE).unlink(missing_ok=True)  # training is complete
    return metrics


def _in_range(settings: Recovery, cutter: Cutter) -> Recovery:
    """The settings with a range of ratios: the given one, else the predictor's."""
    predictor = cutter.plan_inputs(settings.methods).predictor
    low, high = LOW, HIGH
    if predictor is not None:
        low, high = predictor.config.min_ratio, predictor.config.max_ratio
    given = {"low": settings.low, "high": settings.high}
    found = {name: ratio for name, ratio in given.items() if ratio is not None}
    return check(Recovery, settings.model_dump() | {"low": low, "high": high} | found, "recover")


def _mean(curve: pd.DataFrame) -> float:
    return float(curve["loss"].mean())
