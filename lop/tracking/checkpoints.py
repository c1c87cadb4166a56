"""Pruned models in MLflow's registry: one version for each checkpoint.

Only checkpoints of LOP's plans are registered; a baseline is a run with metrics, without a version.
A version is stored as code and safetensors, without pickle. Its metrics are on the run, on the
logged model (MLflow's UI can sort the list of these by any metric) and in the version's tags.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lop.files import read_json

PREFIX = "lop-pruned-"
COPIED_MB = 512  # larger checkpoints are not copied; their versions store the path
_TAG = 5000  # longest tag value, in characters, that MLflow stores


def flat(values: Mapping[str, Any]) -> dict[str, float]:
    """An evaluation as a flat dictionary of metrics; a task's metrics are named `<task>/<metric>`,
    their standard errors `<task>/<metric>_stderr`."""
    found = {k: float(v) for k, v in values.items() if isinstance(v, int | float)}
    for task, summary in values.get("tasks", {}).items():
        for metric, figure in summary["metrics"].items():
            found[f"{task}/{metric}"] = float(figure["value"])
            if figure["stderr"] is not None:
                found[f"{task}/{metric}_stderr"] = float(figure["stderr"])
    return found


def size(checkpoint: Path) -> int:
    """Size of a checkpoint in bytes."""
    return sum(file.stat().st_size for file in checkpoint.iterdir())


def deployable(checkpoint: Path) -> bool:
    """Whether a directory is a checkpoint cut by one of LOP's plans, with or without recovery."""
    # torch takes seconds to import, and the pipeline's own run does not need it
    from lop.methods import plans_of

    record = checkpoint / "pruning.json"
    return record.is_file() and plans_of(read_json(record)["method"]) == "lop"


def model_name(source: str) -> str:
    """The name of the registered model for checkpoints cut from `source`."""
    return PREFIX + Path(source).name


def register(
    _run_id: str,
    path: str,
    figures: Mapping[str, float],
    tags: Mapping[str, str],
    model: str | None = None,
    by_name: bool = False,
) -> str:
    """Log a pruned checkpoint to the current run and register it; returns its version.

    The registered model is named after `model`; the default is the model that the checkpoint was
    cut from, which may have recovered weights. With `by_name` the weights are not copied, and the
    version's tag `checkpoint` holds their path.
    """
    import mlflow

    checkpoint = Path(path)
    record = read_json(checkpoint / "pruning.json")
    card = checkpoint / "README.md"
    settings = {k: record[k] for k in ("method", "ratio", "score", "source") if k in record}
    for file in (card, checkpoint / "pruning.json"):
        mlflow.log_artifact(str(file), checkpoint.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's advice on type hints and examples
        info = mlflow.pyfunc.log_model(
            name=checkpoint.name.replace(".", "_"),  # MLflow allows no dot in this name
            python_model=str(Path(__file__).parents[1] / "models" / "pyfunc.py"),
            artifacts=_files(checkpoint, by_name),
            model_config={"checkpoint": str(checkpoint.resolve())} if by_name else None,
            signature=_signature(),
            pip_requirements=["lop"],
            params=settings | {"kept": _short(record["kept"])},
            metadata={"model_fingerprint": record["model_fingerprint"]},
        )
    mlflow.log_metrics(dict(figures), model_id=info.model_id)
    name = model_name(model or record["source"])
    version_tags = {**settings, "kept": _short(record["kept"]), **tags, **figures}
    version_tags["bytes"] = size(checkpoint)
    version_tags["checkpoint"] = str(checkpoint.resolve()) if by_name else "artifacts/checkpoint"
    version = mlflow.register_model(
        info.model_uri, name, tags={k: str(v)[:_TAG] for k, v in version_tags.items()}
    )
    text = card.read_text().split("---\n", 2)[-1]  # without the front matter
    mlflow.MlflowClient().update_model_version(name, version.version, description=text[:_TAG])
    return str(version.version)


def _files(checkpoint: Path, by_name: bool) -> dict[str, str]:
    """The files that MLflow copies: the whole checkpoint, or its card and pruning record."""
    if not by_name:
        return {"checkpoint": str(checkpoint)}
    return {file: str(checkpoint / file) for file in ("README.md", "pruning.json")}


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    from lop.data.matching import MOST_TOKENS

    inputs: list[Any] = [
        ColSpec(DataType.string, "question"),
        ColSpec(DataType.binary, "image", required=False),
        ColSpec(Array(DataType.string), "choices", required=False),
    ]
    outputs = Schema([ColSpec(DataType.string, "answer")])
    length = ParamSpec("max_new_tokens", DataType.long, MOST_TOKENS)
    return ModelSignature(Schema(inputs), outputs, ParamSchema([length]))


def _short(kept: list[int]) -> str:
    return json.dumps(kept, separators=(",", ":"))[:_TAG]
