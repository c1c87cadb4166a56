"""What all stages share: where data lies, how params are read, how a stage is run and fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from prefect import task
from prefect.cache_policies import NO_CACHE

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

T = TypeVar("T")


def params(section: str) -> dict[str, Any]:
    """A section of params.yaml; LopError when it is not there."""
    values = yaml.safe_load(Path("params.yaml").read_text())
    if section not in values:
        raise LopError(f"params.yaml: no section {section!r}; it has {', '.join(values)}")
    return values[section]


def scores_file() -> Path:
    """The score that decides which neurons go (params: search.score)."""
    return IMPORTANCE / f"{params('search')['score']}.safetensors"


def as_tasks(work: Callable[..., T], keys: Iterable[tuple[Any, ...]]) -> list[T]:
    """Call `work` for each key as a Prefect task of its own, all at once, named after the key."""

    @task(task_run_name="{name}", cache_policy=NO_CACHE)
    def one(name: str, key: tuple[Any, ...]) -> T:
        return work(*key)

    futures = [one.submit("-".join(map(str, key)), key) for key in keys]
    return [future.result() for future in futures]


def run_stage(stage: Callable[[], Any]) -> None:
    """Run a stage as a program: bad input ends in one line on standard error and exit code 2."""
    try:
        stage()
    except LopError as error:
        print(f"lop: {error}", file=sys.stderr)
        sys.exit(2)


def git_commit() -> str:
    """The checked-out commit, or `unknown` outside a repository."""
    result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return result.stdout.strip() or "unknown"
