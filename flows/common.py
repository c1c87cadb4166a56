"""What all stages share: where data lies, how params are read, how a stage is run and fails."""

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
PARENT_TASK = "LOP_PARENT_TASK"  # the environment variable by which a pipeline names its task


def params() -> settings.Params:
    """The settings of the pipeline; LopError for what is wrong with them."""
    return settings.read("params.yaml")


def searches() -> Place:
    """What runs searches, and what is like them (params: search)."""
    search = params().search
    return Place(search.runner, search.workers, search.address)


def evaluations() -> Place:
    """What runs evaluations: processes, since they measure (params: evaluate)."""
    return Place("processes", params().evaluate.workers)


def run_stage(stage: Flow[[], None], place: Callable[[], Place] | None = None) -> None:
    """Run a stage as a program, which ends as `lop.errors.run` says.

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
    """Run a flow, as a child of the pipeline's task when there is one and the server knows it."""
    child = None
    if task := os.environ.get(PARENT_TASK):
        with get_client(sync_client=True) as client, suppress(PrefectHTTPStatusError):
            child = client.create_flow_run(stage, state=Pending(), parent_task_run_id=UUID(task))
    run_flow(stage, flow_run=child)


def hashes(*paths: Path) -> dict[str, str]:
    """The hash under which DVC keeps each of these files, or the folder it lies in."""
    kept = _kept()
    found = {path: next((p for p in (path, *path.parents) if p in kept), None) for path in paths}
    return {str(path): kept[place] for path, place in found.items() if place}


def data_versions() -> dict[str, str]:
    """What DVC says lies in data/: `dvc:<path>` -> hash; empty without a dvc.lock."""
    return {f"dvc:{path}": md5 for path, md5 in _kept().items()}


def origin() -> dict[str, str]:
    """Tags of a run: the commit, and the hash of the dvc.lock that its stage began with."""
    lock = Path("dvc.lock")
    digest = hashlib.md5(lock.read_bytes()).hexdigest() if lock.exists() else "none"
    return {"git_commit": git_commit(), "dvc_lock": digest}


def _kept() -> dict[Path, str]:
    lock = Path("dvc.lock")
    stages = yaml.safe_load(lock.read_text())["stages"] if lock.exists() else {}
    outs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return {Path(out["path"]): out["md5"] for out in outs if "md5" in out}


def git_commit() -> str:
    """The checked-out commit, or `unknown` where there is none."""
    result = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", "HEAD"], capture_output=True, text=True
    )
    return result.stdout.strip() or "unknown"
