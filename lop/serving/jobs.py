"""Checkpoints on demand: a queue of pruning jobs, each in a process of its own.

A job is identified by its checkpoint's name. Its record is stored on disk, so that a restarted
service finds finished checkpoints and starts unfinished jobs again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field

from lop.errors import LopError
from lop.files import clear_leftovers, remove_dir, replacing
from lop.typed import read_typed
from lop.workers import end_with_parent, share_threads

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
State = Literal["queued", "running", "done", "failed"]
STATES: tuple[State, ...] = get_args(State)
Ratio = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Time = Annotated[float, Field(ge=0, allow_inf_nan=False)]
T = TypeVar("T")
CONTEXT = multiprocessing.get_context("forkserver")


class Refused(LopError):
    """A request that is rejected with the HTTP status `status`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Job:
    """A pruning job for one checkpoint; times are seconds since 1970."""

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    ratio: Ratio
    state: State
    created: Time
    finished: Time | None = None
    error: str | None = None  # one line, if the job failed
    predictor_version: str | None = None  # set when the job starts


@dataclass(frozen=True)
class Record:
    """The part of a checkpoint's pruning.json that a service needs."""

    ratio: Ratio
    parameters: int | None = None
    dense_parameters: int | None = None


@dataclass(frozen=True)
class Limits:
    """The numbers of jobs that a service accepts."""

    workers: int = 1  # jobs that run at once
    queue: int = 8  # jobs that wait
    keep: int = 100  # jobs and checkpoints in total


class Jobs:
    """The jobs of one service. Writes nothing outside `out`.

    `cutter` is called when a job starts. It returns the `pruning.Cutter` for the job and the
    predictor's version.
    """

    def __init__(
        self, out: Path, cutter: Callable[[], tuple[Any, str]], limits: Limits = Limits()
    ) -> None:
        self.checkpoints, self.records = out / "checkpoints", out / "jobs"
        self.cutter, self.limits = cutter, limits
        self.lock = threading.RLock()
        self.processes: dict[str, ForkServerProcess] = {}
        self.stopped: set[str] = set()  # running jobs to delete when their process has ended
        self.closing = False
        for directory in (self.checkpoints, self.records):
            directory.mkdir(parents=True, exist_ok=True)
        CONTEXT.set_forkserver_preload(["lop.steps.pruning"])
        self.threads = ThreadPoolExecutor(limits.workers, "jobs")
        self.jobs = self._found()
        for job in self.all():
            if job.state in ("queued", "running"):
                job.state = "queued"
                self.threads.submit(self._work, job)

    def submit(self, name: str, ratio: float) -> Job:
        """Queue a job for a checkpoint; the name of a failed job may be used again.

        Raises Refused if the name is in use, the queue is full or too many checkpoints are kept.
        """
        with self.lock:
            before = self.jobs.get(name)
            if (before and before.state != "failed") or os.path.lexists(self.checkpoints / name):
                raise Refused(409, f"checkpoint {name!r} already exists")
            if len(self.jobs) - bool(before) >= self.limits.keep:
                raise Refused(507, f"{self.limits.keep} checkpoints are kept; delete one first")
            if self.count("queued") >= self.limits.queue:
                raise Refused(429, f"{self.limits.queue} jobs are waiting; try again later")
            job = Job(name, ratio, "queued", time.time())
            self._save(job)
            self.jobs[name] = job
            self.threads.submit(self._work, job)
            return job

    def get(self, name: str) -> Job:
        """The job called `name`; raises Refused if there is none."""
        with self.lock:
            if name not in self.jobs:
                raise Refused(404, "no such checkpoint")
            return self.jobs[name]

    def all(self) -> list[Job]:
        """Every job, oldest first."""
        with self.lock:
            return sorted(self.jobs.values(), key=lambda job: job.created)

    def delete(self, name: str) -> None:
        """Remove a waiting job, stop a running job, or delete a finished job's checkpoint."""
        with self.lock:
            if self.get(name).state == "running":  # the name is free when the process has ended
                self.stopped.add(name)
                if name in self.processes:
                    self.processes[name].terminate()
            else:
                self._remove(name)

    def count(self, state: str) -> int:
        """The number of jobs in a state."""
        with self.lock:
            return sum(job.state == state for job in self.jobs.values())

    def files(self, name: str) -> dict[str, int]:
        """Sizes of a finished checkpoint's files by name, without links and subdirectories; empty
        until the job is done."""
        with self.lock:
            directory = self.checkpoints / name
            if self.get(name).state != "done" or directory.is_symlink() or not directory.is_dir():
                return {}
            found = sorted(directory.iterdir())
            plain = (path for path in found if path.is_file() and not path.is_symlink())
            return {path.name: path.stat().st_size for path in plain}

    def record(self, name: str) -> Record | None:
        """The record in the checkpoint's pruning.json; None until the job is done."""
        done = "pruning.json" in self.files(name)
        return _read_plain(Record, self.checkpoints / name / "pruning.json") if done else None

    def file(self, name: str, file: str) -> Path:
        """The path of one of the checkpoint's `files`; raises Refused for any other name."""
        if file not in self.files(name):  # the name is looked up, so `..` cannot leave the folder
            raise Refused(404, "no such file")
        return self.checkpoints / name / file

    def close(self) -> None:
        """Stop all jobs. The next service with the same `out` starts unfinished jobs again."""
        with self.lock:
            self.closing = True
            for process in self.processes.values():
                process.terminate()
        self.threads.shutdown(cancel_futures=True)

    def _work(self, job: Job) -> None:
        with self.lock:
            if self.closing or self.jobs.get(job.name) is not job:
                return
            cutter, job.predictor_version = self.cutter()
            job.state = "running"
            with suppress(Refused):
                self._save(job)
        try:
            error = self._cut(job, cutter)
        except OSError as failure:
            error = f"cannot start the job's process: {failure.strerror}"
        with self.lock:
            if job.name in self.stopped:
                self.stopped.remove(job.name)
                self._remove(job.name)
            elif error is None or not self.closing:
                job.state, job.error = ("failed", error) if error else ("done", None)
                job.finished = time.time()
                with suppress(Refused):
                    self._save(job)

    def _cut(self, job: Job, cutter: Any) -> str | None:
        """Run the job's process and wait for it; returns None, or an error of one line."""
        ours, theirs = CONTEXT.Pipe()
        args = (theirs, self.limits.workers, self.checkpoints / job.name, job.ratio, cutter)
        process = CONTEXT.Process(target=_prune, args=args, daemon=True)
        process.start()  # not under the lock: the first start takes seconds
        theirs.close()  # so that `recv` raises EOFError when the process ends
        with self.lock:
            self.processes[job.name] = process
            if self.closing or job.name in self.stopped:
                process.terminate()
        try:
            return ours.recv()
        except EOFError:
            return "the job's process ended unexpectedly; possibly out of memory"
        finally:
            process.join()
            ours.close()
            with self.lock:
                del self.processes[job.name]

    def _found(self) -> dict[str, Job]:
        """Jobs of an earlier service: its records, and complete checkpoints without a record."""
        clear_leftovers(self.checkpoints)  # temporary files of killed jobs
        jobs = {}
        for path in self.records.glob("[!.]*.json"):
            job = _read_plain(Job, path)
            if job and job.name == path.stem:
                jobs[job.name] = job
        complete = set()
        for directory in self.checkpoints.iterdir():
            name = directory.name
            if NAME.fullmatch(name) and (ratio := _ratio_of(directory)) is not None:
                complete.add(name)
                if name not in jobs:
                    created = directory.stat().st_mtime
                    jobs[name] = Job(name, ratio, "done", created, created)
        for job in list(jobs.values()):
            if job.name in complete:
                job.state, job.error = "done", None
            elif job.state == "done":
                del jobs[job.name]
        return jobs

    def _save(self, job: Job) -> None:
        try:
            with replacing(self.records / f"{job.name}.json") as tmp:
                tmp.write_text(json.dumps(asdict(job), indent=2) + "\n")
        except OSError as error:
            raise Refused(507, f"cannot write the job's record: {error.strerror}") from error

    def _remove(self, name: str) -> None:
        del self.jobs[name]
        (self.records / f"{name}.json").unlink(missing_ok=True)
        directory = self.checkpoints / name
        if _ratio_of(directory) is not None:  # never delete what is not a checkpoint
            remove_dir(directory)


def _ratio_of(checkpoint: Path) -> float | None:
    """The ratio of a complete checkpoint; None for anything else, and for links."""
    if checkpoint.is_symlink() or not checkpoint.is_dir():
        return None
    record = _read_plain(Record, checkpoint / "pruning.json")
    return record.ratio if record else None


def _read_plain(kind: type[T], path: Path) -> T | None:
    """Read a JSON file that users may have written; None if it is invalid or no ordinary file."""
    if path.is_symlink() or not path.is_file():
        return None
    with suppress(LopError):
        return read_typed(kind, path)
    return None


def _prune(parent: Connection, workers: int, out: Path, ratio: float, cutter: Any) -> None:
    """Run a job in its own process: cut, and send None or an error of one line to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for the service
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # exit normally: delete temporary files
    end_with_parent()
    os.nice(10)  # give plan requests priority
    from lop import progress
    from lop.steps import pruning

    share_threads(workers)
    progress.watched = False
    try:
        pruning.prune_one(out, "lop", ratio, cutter)
    except Exception as error:  # the client gets every error as one line
        kind = "" if isinstance(error, LopError) else f"{type(error).__name__}: "
        parent.send(kind + " ".join(str(error).split())[:500])
    else:
        parent.send(None)
