"""What all stages share: where data lies, how params are read, how a stage is run and fails."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow

from flows.tasks import Place
from lop.errors import LopError

DATA = Path("data")
SAMPLES = DATA / "samples"
IMPORTANCE = DATA / "importance"
PROFILE = DATA / "profile.parquet"
SEARCH = DATA / "search"
PREDICTOR = DATA / "predictor"
TRAINING = DATA / "training"
PRUNED = DATA / "pruned"
EVALUATION = DATA / "evaluation"
REPORT = DATA / "report"


def params(section: str) -> dict[str, Any]:
    """A section of params.yaml; LopError when it is not there."""
    values = yaml.safe_load(Path("params.yaml").read_text())
    if section not in values:
        raise LopError(f"params.yaml: no section {section!r}; it has {', '.join(values)}")
    return values[section]


def scores_file() -> Path:
    """The score that decides which neurons go (params: search.score)."""
    return IMPORTANCE / f"{params('search')['score']}.safetensors"


def placed(section: str) -> tuple[Place, dict[str, Any]]:
    """A section of params.yaml in two: where its tasks run, and all the rest."""
    rest = params(section)
    names = [field.name for field in fields(Place)]
    return Place(**{name: rest.pop(name) for name in names if name in rest}), rest


def run_stage(stage: Flow[[], None], section: str | None = None) -> None:
    """Run a stage as a program: bad input ends in one line on standard error and exit code 2.

    With a section of params.yaml, its tasks run where that says.
    """
    try:
        if section is None:
            stage()
            return
        place, _ = placed(section)
        with place.server():
            stage.with_options(task_runner=place.task_runner())()
    except LopError as error:
        print(f"lop: {error}", file=sys.stderr)
        sys.exit(2)


def data_versions() -> dict[str, str]:
    """What DVC says lies in data/: `dvc:<path>` -> hash, from dvc.lock; empty without one."""
    lock = Path("dvc.lock")
    stages = yaml.safe_load(lock.read_text())["stages"] if lock.exists() else {}
    outs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return {f"dvc:{out['path']}": out["md5"] for out in outs if "md5" in out}


def git_commit() -> str:
    """The checked-out commit, or `unknown` outside a repository."""
    result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return result.stdout.strip() or "unknown"
