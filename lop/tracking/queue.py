"""The queue of runs whose MLflow calls failed: files on disk, until `lop track` logs them."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lop.errors import LopError
from lop.files import Kind, remove_dir, replacing, replacing_dir
from lop.tracking import store
from lop.tracking.calls import CALLS, FILES

QUEUE = "LOP_UNTRACKED"  # the environment variable with the queue's directory
FOLDER = Path(".lop/untracked")
RECORD = "record.json"
LOCK = ".lock"
QUEUED_RUN = Kind("a queued run", (RECORD,), frozenset({"key", "calls"}))
WAITING = "waiting:"  # prefix of the id of a parent run that is also queued


def now() -> int:
    """Milliseconds since 1970, as MLflow stores times."""
    return round(time.time() * 1000)


@dataclass
class Record:
    """A run with the calls that are not logged yet. It is stored as JSON: do not rename fields."""

    name: str
    tags: dict[str, str]
    parent: str | None = None  # a run id, or `waiting:<key>` of a queued run
    run_id: str | None = None  # None: MLflow has no such run yet
    begun: int = field(default_factory=now)
    ended: int | None = None
    status: str = "RUNNING"
    once: str | None = None  # a tag: skip this run if a finished run has the same value of it
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    key: str = field(default_factory=lambda: f"{time.time_ns()}-{uuid.uuid4().hex[:6]}")

    @property
    def as_parent(self) -> str:
        """The value of `parent` in a child's record."""
        return self.run_id or WAITING + self.key


def keep(record: Record) -> None:
    """Write a record to the queue, with copies of the files that its calls log."""
    with replacing_dir(folder() / record.key, QUEUED_RUN) as tmp:
        calls = [
            (name, _copy_files(tmp / str(i), Path(value)) if name in FILES else value, *more)
            for i, (name, value, *more) in enumerate(record.calls)
        ]
        _write(tmp, replace(record, calls=calls))


def _copy_files(directory: Path, path: Path) -> str:
    directory.mkdir()
    (shutil.copytree if path.is_dir() else shutil.copy)(path, directory / path.name)
    return str(Path(directory.name) / path.name)


def folder() -> Path:
    """The queue's directory: LOP_UNTRACKED if set, else .lop/untracked."""
    return Path(os.environ.get(QUEUE, FOLDER))


def replay() -> int:
    """Log all queued runs to MLflow, oldest first, and remove them from the queue.

    Returns how many there were. Raises LopError if MLflow is unreachable or rejects a call, or if
    another process is replaying the queue. The remaining runs stay queued, and the next replay
    continues partly logged runs.
    """
    if not folder().is_dir():
        return 0
    with _alone():
        return _replay()


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the queue's lock, so that two processes do not register everything twice.

    The system releases the lock when its process ends, even if it is killed.
    """
    try:
        held = FileLock(folder() / LOCK).acquire(blocking=False)
    except Timeout as error:
        raise LopError(f"{folder()}: another `lop track` is logging it") from error
    with held:
        yield


def _replay() -> int:
    queued = sorted(path.parent for path in folder().glob(f"[!.]*/{RECORD}"))
    for directory in queued:
        try:
            run_id = _log(store.connect(), directory)
        except Exception as error:  # each kind of MLflow store raises exceptions of its own
            raise LopError(f"{directory}: cannot log it to {store.where()}: {error}") from error
        for other in queued:
            if other.exists() and (child := _read(other)).parent == WAITING + directory.name:
                child.parent = run_id
                _write(other, child)
        remove_dir(directory)
    return len(queued)


def _log(mlflow: Any, directory: Path) -> str:
    """Log the queued run in `directory`; returns its MLflow run id."""
    record = _read(directory)
    if record.once and (known := find(mlflow, record.once, record.tags[record.once])):
        return known
    client = mlflow.MlflowClient()
    if record.run_id is None:
        experiment = mlflow.get_experiment_by_name(store.EXPERIMENT).experiment_id
        tags = record.tags | {"mlflow.runName": record.name}
        if record.parent and not record.parent.startswith(WAITING):
            tags["mlflow.parentRunId"] = record.parent
        created = client.create_run(experiment, start_time=record.begun, tags=tags)
        record.run_id = str(created.info.run_id)
        _write(directory, record)
    with mlflow.start_run(record.run_id, nested=True):  # models are logged to the active run
        while record.calls:
            name, value, *more = record.calls[0]
            first = str(directory / value) if name in FILES else value
            CALLS[name](record.run_id, first, *more)
            record.calls.pop(0)
            _write(directory, record)  # so that the next replay does not repeat this call
    client.set_terminated(record.run_id, record.status, record.ended)
    return record.run_id


def _read(directory: Path) -> Record:
    return Record(**json.loads((directory / RECORD).read_text()))


def _write(directory: Path, record: Record) -> None:
    with replacing(directory / RECORD) as tmp:
        tmp.write_text(json.dumps(asdict(record), indent=1))


def find(mlflow: Any, tag: str, value: str) -> str | None:
    """The id of a finished run in lop's experiment with this tag, or None."""
    query = f"tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'"
    names = [store.EXPERIMENT]
    found = mlflow.search_runs(
        experiment_names=names, filter_string=query, max_results=1, output_format="list"
    )
    return found[0].info.run_id if found else None
