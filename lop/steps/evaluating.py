"""The step that says what checkpoints are worth: answers, size, memory and speed."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lop.errors import LopError
from lop.evaluation.tasks.benchmarks import HEADLINE, TEXT, Spec, locate
from lop.files import (
    check_file,
    clear_leftovers,
    content_digest,
    read_json,
    replacing,
)
from lop.models.fingerprints import digest
from lop.workers import Each, in_processes

MODULES = ["lop.evaluation.answers", "lop.evaluation.lm"]  # what a process that evaluates imports


def evaluate(
    out: Path,
    model_path: str,
    pruned_dir: Path,
    samples_path: Path,
    batch_size: int = 64,
    latency_samples: int = 20,
    workers: int = 1,
    each: Each[dict[str, Any]] | None = None,
    alone: Each[dict[str, Any]] | None = None,
    tasks: Sequence[Spec] = (HEADLINE,),
    recovered: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Evaluate and measure the dense model and all in `pruned_dir`: a folder a model in `out`, and
    metrics.json of all. What is finished there is kept.

    The whole model after recovery is one of them, where it is given.

    `tasks` are names, or {name: data}; see `lop.evaluation.tasks.benchmarks.locate`.

    Returns the metrics by model name; the dense model is called `dense`. Every model gets a
    process of its own, `workers` at a time, unless `each` sees to that. Memory and speed are
    measured last, on this machine, one model at a time, unless `alone` sees to that.
    """
    places = locate(tasks, samples_path)
    models = {"dense": Path(model_path)} | ({"recovered": recovered} if recovered else {})
    models |= {path.name: path for path in sorted(pruned_dir.iterdir()) if path.is_dir()}
    each = each or in_processes(workers, "models", MODULES, fresh=True)
    alone = alone or in_processes(1, "timing", ["lop.evaluation.footprint"], fresh=True)
    ask = partial(_answers_of, out, models, samples_path, batch_size, places)
    dense = Path(model_path)
    weigh = partial(_footprint, dense, samples_path=samples_path, latency_samples=latency_samples)
    asked = each(ask, [(name,) for name in models])  # a task is named by its key
    costs = alone(weigh, [(path, out / name) for name, path in models.items()])
    found = zip(models, asked, costs, strict=True)
    metrics = {name: answers | cost for name, answers, cost in found}
    for name in models:  # what killed runs and workers left; none is writing now
        clear_leftovers(out / name)
    with replacing(out / "metrics.json") as tmp:
        tmp.write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def _answers_of(
    out: Path,
    models: Mapping[str, Path],
    samples_path: Path,
    batch_size: int,
    places: Mapping[str, str],
    name: str,
) -> dict[str, Any]:
    return _answers(out / name, models[name], samples_path, batch_size, places)


def evaluate_one(
    out: Path | None,
    model_path: str | Path,
    samples_path: Path | None,
    batch_size: int,
    latency_samples: int,
    places: Mapping[str, str],
) -> dict[str, Any]:
    """What one model costs and how it answers the tasks in `places` (name -> data).

    Everything is kept in `out`, and what is there and current is not done again. Size, latency and
    memory are measured on samples, and not without.
    """
    answers = _answers(out, model_path, samples_path, batch_size, places)
    if samples_path is None:
        return answers
    return answers | _footprint(None, model_path, out, samples_path, latency_samples)


def _answers(
    out: Path | None,
    model_path: str | Path,
    samples_path: Path | None,
    batch_size: int,
    places: Mapping[str, str],
) -> dict[str, Any]:
    """Every task's figures, and those of the one that methods are compared by."""
    from lop.evaluation.answers import evaluate_all

    if out and out.is_file():
        raise LopError(f"{out}: is a file; expected a directory for answers and figures")
    if out:
        for name in places:
            check_file(out / f"{name}.parquet", (model_path, samples_path, *places.values()))
    found = evaluate_all(out, model_path, places, batch_size)
    headline = next((found[name].headline() for name in (HEADLINE, TEXT) if name in found), {})
    return headline | {"tasks": {name: shard.summary() for name, shard in found.items()}}


def _footprint(
    dense: Path | None,
    model_path: str | Path,
    out: Path | None,
    samples_path: Path,
    latency_samples: int,
) -> dict[str, Any]:
    """What a checkpoint costs, measured once on a machine and kept in `out`/footprint.json.

    It is timed in turn with the dense model, where that is given and another.
    """
    from lop.evaluation.answers import NOT_ASKED
    from lop.evaluation.footprint import VERSION, measure

    place = None if out is None else out / "footprint.json"
    other = None if dense is None or Path(model_path) == dense else dense
    content = [content_digest(model_path, NOT_ASKED), content_digest(samples_path)]
    content += [content_digest(other, NOT_ASKED)] if other else []
    mark = digest(VERSION, *content, latency_samples, platform.node(), torch.get_num_threads())
    if place and place.exists() and (known := read_json(place)).get("fingerprint") == mark:
        return known["footprint"]
    cost = measure(model_path, samples_path, latency_samples, dense_dir=other).summary()
    if place:
        with replacing(place) as tmp:
            tmp.write_text(json.dumps({"fingerprint": mark, "footprint": cost}, indent=2) + "\n")
    return cost
