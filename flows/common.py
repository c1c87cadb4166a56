"""Shared by all stages: paths of the data, reading of params, running of a stage and its errors."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import yaml
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.flow_engine import run_flow
from prefect.states import Pending

from flows.tasks import Place
from lop import errors, settings

DATA = Path("data")
SAMPLES = DATA / "samples"
IMPORTANCE = DATA / "importance"
PROFILE = DATA / "profile.parquet"
SEARCH = DATA / "search"
PREDICTOR = DATA / "predictor"
TRAINING = DATA / "training"
KIT = DATA / "kit"
RECOVERED = DATA / "recovered"
RECOVERY = DATA / "recovery"
PRUNED = DATA / "pruned"
EVALUATION = DATA / "evaluation"
REPORT = DATA / "report"
PARENT_TASK = "LOP_PARENT_TASK"  # the environment variable with the pipeline's task of a stage


def params() -> settings.Params:
    """The settings of the pipeline; LopError if they are not valid."""
    return settings.read("params.yaml")


def searches() -> Place:
    """The runner of searches and similar work (params: search)."""
    search = params().search
    return Place(search.runner, search.workers, search.address)


def evaluations() -> Place:
    """The runner of evaluations: processes, because they measure (params: evaluate)."""
    return Place("processes", params().evaluate.workers)


def run_stage(stage: Flow[[], None], place: Callable[[], Place] | None = None) -> None:
    """Run a stage as a program, with the exit codes of `lop.errors.run`.

    Its tasks run in a `place`, where it has tasks.
    """
    sys.exit(errors.run(_placed, stage, place))


def _placed(stage: Flow[[], None], place: Callable[[], Place] | None) -> None:
    if place is None:
        _start(stage)
        return
    chosen = place()
    with chosen.server():
        _start(stage.with_options(task_runner=chosen.task_runner()))


def _start(stage: Flow[[], None]) -> None:
    """Run a flow, as a child of the pipeline's task if there is one and the server has it."""
    child = None
    if task := os.environ.get(PARENT_TASK):
        with get_client(sync_client=True) as client, suppress(PrefectHTTPStatusError):
            child = client.create_flow_run(stage, state=Pending(), parent_task_run_id=UUID(task))
    run_flow(stage, flow_run=child)


def hashes(*paths: Path) -> dict[str, str]:
    """DVC's hash of each of these files, or of the directory with the file."""
    kept = _kept()
    found = {path: next((p for p in (path, *path.parents) if p in kept), None) for path in paths}
    return {str(path): kept[place] for path, place in found.items() if place}


def data_versions() -> dict[str, str]:
    """DVC's hashes of the files in data/: `dvc:<path>` -> hash; empty without a dvc.lock."""
    return {f"dvc:{path}": md5 for path, md5 in _kept().items()}


def origin() -> dict[str, str]:
    """Tags of a run: the commit, and the hash of dvc.lock at the start of the stage."""
    lock = Path("dvc.lock")
    digest = hashlib.md5(lock.read_bytes()).hexdigest() if lock.exists() else "none"
    return {"git_commit": git_commit(), "dvc_lock": digest}


def _kept() -> dict[Path, str]:
    lock = Path("dvc.lock")
    stages = yaml.safe_load(lock.read_text())["stages"] if lock.exists() else {}
    outs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return {Path(out["path"]): out["md5"] for out in outs if "md5" in out}


def git_commit() -> str:
    """The checked-out commit, or `unknown` if there is none."""
    result = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", "HEAD"], capture_output=True, text=True
    )
    return result.stdout.strip() or "unknown"
