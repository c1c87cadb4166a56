"""The step that evaluates checkpoints: answers, size, memory and speed."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lop.errors import LopError
from lop.evaluation.dropped import Dropped, of_grid
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

if TYPE_CHECKING:
    from lop.evaluation.answers import Evaluation

MODULES = ["lop.evaluation.answers", "lop.evaluation.lm"]  # imported by evaluation processes


def evaluate(
    out: Path,
    model_path: str,
    pruned_dir: Path,
    samples_path: Path,
    batch_size: int = 64,
    latency_samples: int = 20,
    workers: int = 1,
    each: Each[tuple[str, dict[str, Any]]] | None = None,
    alone: Each[dict[str, Any]] | None = None,
    tasks: Sequence[Spec] = (HEADLINE,),
    recovered: Path | None = None,
    scores_dir: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Evaluate and measure the dense model and every checkpoint in `pruned_dir`.

    Writes a folder for each model and one metrics.json to `out`; finished results in `out` are
    reused. `recovered` is the unpruned model after recovery, evaluated too if given. A checkpoint
    that plans.json lists but that was not kept is cut by the scores in `scores_dir`, evaluated and
    deleted, then cut again to be measured.

    `tasks` are names, or {name: data}; see `lop.evaluation.tasks.benchmarks.locate`.

    Returns the metrics by model name; the dense model is called `dense`. Every model runs in a
    separate process, `workers` at a time, or as `each` runs them. Memory and speed are measured
    last, on this machine, one model at a time, or as `alone` runs them.
    """
    from lop.evaluation.answers import content_of

    task_data, whole = locate(tasks, samples_path), {"dense": Path(model_path)}
    whole |= {"recovered": recovered} if recovered else {}
    known = {name: content_of(path) for name, path in whole.items()}
    models: dict[str, Path | Dropped] = {**whole, **of_grid(pruned_dir, whole, known, scores_dir)}
    each = each or in_processes(workers, "models", MODULES, fresh=True)
    alone = alone or in_processes(1, "timing", ["lop.evaluation.footprint"], fresh=True)
    ask = partial(_answers_of, out, models, samples_path, batch_size, task_data, known)
    asked = each(ask, [(name,) for name in models])  # a task is named by its key
    contents = {name: of for name, (of, _) in zip(models, asked, strict=True)}
    weigh = partial(_footprint_of, out, models, contents, samples_path, latency_samples)
    costs = alone(weigh, [(name,) for name in models])
    found = zip(models, asked, costs, strict=True)
    metrics = {name: answers | cost for name, (_, answers), cost in found}
    for name in models:  # temporary files of killed runs and workers; none is writing now
        clear_leftovers(out / name)
    with replacing(out / "metrics.json") as tmp:
        tmp.write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def _answers_of(
    out: Path,
    models: Mapping[str, Path | Dropped],
    samples_path: Path,
    batch_size: int,
    task_data: Mapping[str, str],
    known: Mapping[str, str],
    name: str,
) -> tuple[str, dict[str, Any]]:
    """The digest of a model's files (from `known`, or computed here), and the model's figures."""
    from lop.evaluation.answers import content_of, evaluate_all, finished

    model, folder = models[name], out / name
    if isinstance(model, Path):
        content = known.get(name) or content_of(model)
        return content, _answers(folder, model, samples_path, batch_size, task_data, content)
    _check_out(folder, (model.source, samples_path), task_data)
    if before := model.content(folder):
        shards = finished(folder, before, task_data)
        if len(shards) == len(task_data):
            return before, _figures(shards)
    with model.at_hand(folder) as (path, content):
        return content, _figures(evaluate_all(folder, path, task_data, batch_size, content=content))


def _footprint_of(
    out: Path,
    models: Mapping[str, Path | Dropped],
    contents: Mapping[str, str],
    samples_path: Path,
    latency_samples: int,
    name: str,
) -> dict[str, Any]:
    model, folder = models[name], out / name
    dense = None if name == "dense" else models["dense"]
    assert not isinstance(dense, Dropped)
    known = [contents[each] for each in dict.fromkeys([name, "dense"])]
    if isinstance(model, Path):
        return _footprint(dense, model, folder, samples_path, latency_samples, known)
    if cost := _measured(folder, _footprint_mark(known, samples_path, latency_samples)):
        return cost
    with model.at_hand(folder) as (path, _):
        return _footprint(dense, path, folder, samples_path, latency_samples, known)


def evaluate_one(
    out: Path | None,
    model_path: str | Path,
    samples_path: Path | None,
    batch_size: int,
    latency_samples: int,
    task_data: Mapping[str, str],
) -> dict[str, Any]:
    """Evaluate one model on the tasks in `task_data` (name -> data); measure its size and speed.

    The results are written to `out`; current results there are reused. Size, latency and memory are
    measured only if samples are given.
    """
    from lop.evaluation.answers import content_of

    content = content_of(model_path)
    answers = _answers(out, model_path, samples_path, batch_size, task_data, content)
    if samples_path is None:
        return answers
    return answers | _footprint(None, model_path, out, samples_path, latency_samples, [content])


def _answers(
    out: Path | None,
    model_path: str | Path,
    samples_path: Path | None,
    batch_size: int,
    task_data: Mapping[str, str],
    content: str,
) -> dict[str, Any]:
    """Every task's figures, with the headline task's at the top level."""
    from lop.evaluation.answers import evaluate_all

    if out:
        _check_out(out, (model_path, samples_path), task_data)
    return _figures(evaluate_all(out, model_path, task_data, batch_size, content=content))


def _check_out(
    out: Path, inputs: Sequence[str | Path | None], task_data: Mapping[str, str]
) -> None:
    if out.is_file():
        raise LopError(f"{out}: is a file; expected a directory for answers and figures")
    for name in task_data:
        check_file(out / f"{name}.parquet", (*inputs, *task_data.values()))


def _figures(found: Mapping[str, Evaluation]) -> dict[str, Any]:
    headline = next((found[name].headline() for name in (HEADLINE, TEXT) if name in found), {})
    return headline | {"tasks": {name: shard.summary() for name, shard in found.items()}}


def _footprint(
    dense: Path | None,
    model_path: str | Path,
    out: Path | None,
    samples_path: Path,
    latency_samples: int,
    contents: Sequence[str],
) -> dict[str, Any]:
    """Size, memory and speed of a checkpoint, measured once on a machine and written to
    `out`/footprint.json.

    If `dense` is given, both models are timed in turn. `contents` has the digests of their files.
    """
    from lop.evaluation.footprint import measure

    mark = _footprint_mark(contents, samples_path, latency_samples)
    if out and (known := _measured(out, mark)):
        return known
    cost = measure(model_path, samples_path, latency_samples, dense_dir=dense).summary()
    if out:
        with replacing(out / "footprint.json") as tmp:
            tmp.write_text(json.dumps({"fingerprint": mark, "footprint": cost}, indent=2) + "\n")
    return cost


def _footprint_mark(contents: Sequence[str], samples_path: Path, latency_samples: int) -> str:
    """Twelve hex digits over everything that affects a footprint on this machine."""
    from lop.evaluation.footprint import VERSION

    model, *dense = contents
    parts = [model, content_digest(samples_path), *dense]
    return digest(VERSION, *parts, latency_samples, platform.node(), torch.get_num_threads())


def _measured(out: Path, mark: str) -> dict[str, Any] | None:
    """The footprint in `out` if it has the fingerprint `mark`, else None."""
    file = out / "footprint.json"
    known = read_json(file) if file.exists() else {}
    return known["footprint"] if known.get("fingerprint") == mark else None
