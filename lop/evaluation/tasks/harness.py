"""lm-eval's own text tasks, by name, run as lm-eval itself runs them.

Their names here are `lm_eval.<task>`; a folder given with a name holds the task's YAML.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel

from lop.data.batching import restarting
from lop.data.chat import Processor, tokenizer_of
from lop.errors import LopError, first_line

PREFIX = "lm_eval."
Figures = dict[str, dict[str, float | None]]


def ask(
    model: PreTrainedModel, processor: Processor, name: str, place: str, batch_size: int
) -> tuple[pd.DataFrame, Figures]:
    """A table with a row for each question and a column for each metric, and lm-eval's own metrics.

    `name` is a task or group, without `PREFIX`, and `place` a folder of tasks or the hub. A metric
    that weights its questions has the weights in a column `<metric> weight`. Raises LopError for a
    task that lm-eval does not know or cannot load, and for a task with pictures.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    loaded, tokenizer = _load(name, place), tokenizer_of(processor)

    def answered(size: int) -> Any:
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)  # type: ignore[arg-type]
        return evaluate(lm, loaded, bootstrap_iters=0, log_samples=True)

    try:
        found = restarting(batch_size, answered)
    except ValueError as error:  # a task with pictures
        raise LopError(f"{PREFIX}{name}: {first_line(error)}") from error
    rows = [_row(task, doc) for task, docs in found["samples"].items() for doc in docs]
    # lm-eval has a row for each answer filter; make one row for each question
    table = pd.DataFrame(rows).groupby("id", sort=False).first().reset_index()
    return table, _figures(found["results"].get(name, {}))


def _load(name: str, place: str) -> Any:
    from lm_eval.tasks import TaskManager

    local = Path(place).is_dir()
    manager = TaskManager(include_path=place if local else None, include_defaults=not local)
    if name not in manager.all_tasks:
        where = place if local else "lm-eval"
        raise LopError(f"{PREFIX}{name}: {where} has no such task")
    try:
        with _hub_once():
            return manager.load([name])
    except Exception as error:  # a task's own code, and the hub's client, may raise anything
        raise LopError(f"{PREFIX}{name}: cannot be loaded: {first_line(error)}") from error


@contextmanager
def _hub_once() -> Iterator[None]:
    """If the hub does not answer now, do not contact it again in the block: each retry takes half a
    minute."""
    import datasets.config
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception:  # any transport error; data that are not cached then fail at once
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _row(task: str, doc: dict[str, Any]) -> dict[str, Any]:
    """lm-eval's result for one question with one answer filter."""
    how = doc["filter"]
    name = f"{task}/{doc['doc_id']}"
    row: dict[str, Any] = {"id": name, "group": name, "picture": name, "category": task}
    row["prompt_hash"] = doc["prompt_hash"][:12]
    for metric in doc["metrics"]:
        value, column = doc[metric], metric if how == "none" else f"{metric}.{how}"
        if isinstance(value, tuple | list) and len(value) == 2:
            row[column], row[f"{column} weight"] = map(float, value)
        elif isinstance(value, int | float):
            row[column] = float(value)
    return row


def _figures(summary: dict[str, Any]) -> Figures:
    """The values of a task, or of a group if it has any, by metric."""
    found: Figures = {}
    for key, value in summary.items():
        metric, _, how = key.partition(",")
        name = metric if how == "none" else f"{metric}.{how}"
        if how and isinstance(value, int | float) and not metric.endswith("_stderr"):
            found[name] = {"value": float(value), "stderr": None}
    return found
