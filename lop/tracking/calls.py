"""The MLflow calls that a run can make, by name, each with the run's id and JSON values.

JSON values, so that the queue can store a call that fails and repeat it later. The calls in FILES
have a path as their first value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lop.tracking import checkpoints, registry

BATCH = 1000  # metrics that MLflow accepts in one request


def _params(run_id: str, values: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    _client().log_batch(run_id, params=[Param(name, value) for name, value in values.items()])


def _metrics(run_id: str, points: Sequence[tuple[str, float, int, int]]) -> None:
    """Points are (name, value, milliseconds since 1970, step)."""
    from mlflow.entities import Metric

    metrics = [Metric(*point) for point in points]
    for start in range(0, len(metrics), BATCH):
        _client().log_batch(run_id, metrics=metrics[start : start + BATCH])


def _inputs(run_id: str, hashes: Mapping[str, str]) -> None:
    """Log data sets; `hashes` maps each path to its DVC hash."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    def dataset_input(path: str, digest: str) -> DatasetInput:
        dataset = Dataset(path, digest, source_type="local", source=json.dumps({"uri": path}))
        return DatasetInput(dataset, [InputTag("dvc", digest)])

    _client().log_inputs(run_id, [dataset_input(*item) for item in hashes.items()])


def _artifact(run_id: str, path: str) -> None:
    client = _client()
    (client.log_artifacts if Path(path).is_dir() else client.log_artifact)(run_id, path)


CALLS: Mapping[str, Callable[..., Any]] = {
    "params": _params,
    "metrics": _metrics,
    "inputs": _inputs,
    "artifact": _artifact,
    "register": registry.register,
    "checkpoint": checkpoints.register,
    "checkpoint_by_name": partial(checkpoints.register, by_name=True),
}
FILES = ("artifact", "register", "checkpoint")  # the queue copies the file or directory of these


def _client() -> Any:
    import mlflow

    return mlflow.MlflowClient()
