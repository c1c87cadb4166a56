"""Pruned models in MLflow's registry: a version a checkpoint, to sort by any metric and pick from.

Those are LOP's, which somebody may deploy; a baseline is a run with its figures, and no version.
A version is code plus safetensors, no pickle. Its metrics stand on the run, on the logged model
(whose list in MLflow's UI sorts by them) and in the version's tags.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lop.files import read_json

PREFIX = "lop-pruned-"
COPIED_MB = 512  # larger checkpoints stay where they are, and the version names the place
_TAG = 5000  # characters that MLflow keeps of a tag


def flat(values: Mapping[str, Any]) -> dict[str, float]:
    """A model's figures as numbers by name; a task's are `<task>/<metric>`, with `…_stderr`."""
    found = {k: float(v) for k, v in values.items() if isinstance(v, int | float)}
    for task, summary in values.get("tasks", {}).items():
        for metric, one in summary["metrics"].items():
            found[f"{task}/{metric}"] = float(one["value"])
            if one["stderr"] is not None:
                found[f"{task}/{metric}_stderr"] = float(one["stderr"])
    return found


def size(checkpoint: Path) -> int:
    """Bytes that a checkpoint takes."""
    return sum(file.stat().st_size for file in checkpoint.iterdir())


def deployable(checkpoint: Path) -> bool:
    """Whether a folder is a checkpoint that LOP's plans have cut, recovered or not."""
    from lop.methods import plans_of  # torch takes seconds to import: not for a pipeline's run

    record = checkpoint / "pruning.json"
    return record.is_file() and plans_of(read_json(record)["method"]) == "lop"


def model_name(source: str) -> str:
    """The registered model that collects what was cut out of `source`."""
    return PREFIX + Path(source).name


def register(
    _run_id: str,
    path: str,
    figures: Mapping[str, float],
    tags: Mapping[str, str],
    model: str | None = None,
    by_name: bool = False,
) -> str:
    """Log a pruned checkpoint in the current run and register it; returns its version.

    It is a version of `model`'s checkpoints; default: of the model that it was cut out of, which
    may be one with recovered weights. With `by_name` its weights are not copied: the version's tag
    `checkpoint` says where they lie.
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
            name=checkpoint.name.replace(".", "_"),  # MLflow takes no dot here
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
    marks = {**settings, "kept": _short(record["kept"]), **tags, **figures}
    marks["bytes"] = size(checkpoint)
    marks["checkpoint"] = str(checkpoint.resolve()) if by_name else "artifacts/checkpoint"
    version = mlflow.register_model(
        info.model_uri, name, tags={k: str(v)[:_TAG] for k, v in marks.items()}
    )
    text = card.read_text().split("---\n", 2)[-1]  # without the front matter
    mlflow.MlflowClient().update_model_version(name, version.version, description=text[:_TAG])
    return str(version.version)


def _files(checkpoint: Path, by_name: bool) -> dict[str, str]:
    """What MLflow copies: all of the checkpoint, or only what says what it is."""
    if not by_name:
        return {"checkpoint": str(checkpoint)}
    return {file: str(checkpoint / file) for file in ("README.md", "pruning.json")}


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    from lop.data.matching import MOST_TOKENS

    asked: list[Any] = [
        ColSpec(DataType.string, "question"),
        ColSpec(DataType.binary, "image", required=False),
        ColSpec(Array(DataType.string), "choices", required=False),
    ]
    answered = Schema([ColSpec(DataType.string, "answer")])
    longest = ParamSpec("max_new_tokens", DataType.long, MOST_TOKENS)
    return ModelSignature(Schema(asked), answered, ParamSchema([longest]))


def _short(kept: list[int]) -> str:
    return json.dumps(kept, separators=(",", ":"))[:_TAG]
