"""What could not be said to MLflow, written down until `lop track` says it."""

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
from lop.tracking.sayings import FILES, SAYINGS

QUEUE = "LOP_UNTRACKED"  # the environment variable that names the queue's folder
FOLDER = Path(".lop/untracked")
RECORD = "record.json"
LOCK = ".lock"
WAITS = Kind("a run that waits", (RECORD,), frozenset({"key", "calls"}))
WAITING = "waiting:"  # begins the name of a parent that waits in the queue too


def now() -> int:
    """Milliseconds since 1970, as MLflow has it."""
    return round(time.time() * 1000)


@dataclass
class Record:
    """A run as it will have to be told: what MLflow knows of it already, and what it does not."""

    name: str
    tags: dict[str, str]
    parent: str | None = None  # a run's id, or `waiting:<key>`
    run_id: str | None = None
    begun: int = field(default_factory=now)
    ended: int | None = None
    status: str = "RUNNING"
    once: str | None = None  # a tag: runs with the same one are told once
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    key: str = field(default_factory=lambda: f"{time.time_ns()}-{uuid.uuid4().hex[:6]}")

    @property
    def as_parent(self) -> str:
        """What a child writes down as its parent."""
        return self.run_id or WAITING + self.key


def keep(record: Record) -> None:
    """Write a record to the queue, with the files it is about."""
    with replacing_dir(folder() / record.key, WAITS) as tmp:
        calls = [
            (what, _keep_files(tmp / str(i), Path(value)) if what in FILES else value, *more)
            for i, (what, value, *more) in enumerate(record.calls)
        ]
        _write(tmp, replace(record, calls=calls))


def _keep_files(place: Path, path: Path) -> str:
    place.mkdir()
    (shutil.copytree if path.is_dir() else shutil.copy)(path, place / path.name)
    return str(Path(place.name) / path.name)


def folder() -> Path:
    """Where records wait: LOP_UNTRACKED, else .lop/untracked."""
    return Path(os.environ.get(QUEUE, FOLDER))


def replay() -> int:
    """Tell MLflow every waiting run, oldest first; returns how many. What is told is removed.

    Raises LopError when MLflow is out of reach or refuses one, or another process is at it; what is
    left waits on, and the next try goes on in the runs that this one began.
    """
    if not folder().is_dir():
        return 0
    with _alone():
        return _replay()


@contextmanager
def _alone() -> Iterator[None]:
    """Inside, no other process replays this queue: two would register everything twice.

    The system gives the lock back when its holder ends, however that ends.
    """
    try:
        held = FileLock(folder() / LOCK).acquire(blocking=False)
    except Timeout as error:
        raise LopError(f"{folder()}: another `lop track` is logging it") from error
    with held:
        yield


def _replay() -> int:
    waiting = sorted(path.parent for path in folder().glob(f"[!.]*/{RECORD}"))
    for place in waiting:
        try:
            run_id = _tell(store.connect(), place)
        except Exception as error:  # MLflow raises a type a kind of store
            raise LopError(f"{place}: cannot log it to {store.where()}: {error}") from error
        for other in waiting:
            if other.exists() and (child := _read(other)).parent == WAITING + place.name:
                child.parent = run_id
                _write(other, child)
        remove_dir(place)
    return len(waiting)


def _tell(mlflow: Any, place: Path) -> str:
    record = _read(place)
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
        _write(place, record)
    with mlflow.start_run(record.run_id, nested=True):  # a model belongs to the run that is open
        while record.calls:
            what, value, *more = record.calls[0]
            said = str(place / value) if what in FILES else value
            SAYINGS[what](record.run_id, said, *more)
            record.calls.pop(0)
            _write(place, record)  # what has been said is not said again
    client.set_terminated(record.run_id, record.status, record.ended)
    return record.run_id


def _read(place: Path) -> Record:
    return Record(**json.loads((place / RECORD).read_text()))


def _write(place: Path, record: Record) -> None:
    with replacing(place / RECORD) as tmp:
        tmp.write_text(json.dumps(asdict(record), indent=1))


def find(mlflow: Any, tag: str, value: str) -> str | None:
    """The id of a finished run of lop's experiment with this tag, if there is one."""
    query = f"tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'"
    names = [store.EXPERIMENT]
    found = mlflow.search_runs(
        experiment_names=names, filter_string=query, max_results=1, output_format="list"
    )
    return found[0].info.run_id if found else None
