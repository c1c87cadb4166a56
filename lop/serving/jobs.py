"""Checkpoints on demand: a queue of pruning jobs, each in a process of its own.

A job is known by its checkpoint's name. Its record lies on disk, so that a service which starts
again finds what is done and goes on with what is not.
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
    """A request that cannot be met now; `status` is HTTP's word for why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Job:
    """A checkpoint that was asked for; times are seconds since 1970."""

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    ratio: Ratio
    state: State
    created: Time
    finished: Time | None = None
    error: str | None = None  # one line, when it failed
    predictor_version: str | None = None  # that it is cut with, once it runs


@dataclass(frozen=True)
class Record:
    """What a checkpoint's pruning.json says of it, as far as a service needs it."""

    ratio: Ratio
    parameters: int | None = None
    dense_parameters: int | None = None


@dataclass(frozen=True)
class Limits:
    """How much a service takes on."""

    workers: int = 1  # jobs at once
    queue: int = 8  # jobs that wait
    keep: int = 100  # jobs and checkpoints there may be


class Jobs:
    """The jobs of one service; nothing is written outside `out`.

    `cutter` gives what `pruning.prune_one` needs and the predictor's version, when a job begins.
    """

    def __init__(
        self, out: Path, cutter: Callable[[], tuple[Any, str]], limits: Limits = Limits()
    ) -> None:
        self.checkpoints, self.records = out / "checkpoints", out / "jobs"
        self.cutter, self.limits = cutter, limits
        self.lock = threading.RLock()
        self.processes: dict[str, ForkServerProcess] = {}
        self.stopped: set[str] = set()  # running jobs to be deleted
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
        """Queue a checkpoint; one that failed may be asked for again under its name.

        Raises Refused when there is one of that name, or no room.
        """
        with self.lock:
            before = self.jobs.get(name)
            if (before and before.state != "failed") or os.path.lexists(self.checkpoints / name):
                raise Refused(409, f"checkpoint {name!r} is there already")
            if len(self.jobs) - bool(before) >= self.limits.keep:
                raise Refused(507, f"{self.limits.keep} checkpoints are kept: delete one first")
            if self.count("queued") >= self.limits.queue:
                raise Refused(429, f"{self.limits.queue} jobs are waiting: ask again later")
            job = Job(name, ratio, "queued", time.time())
            self._save(job)
            self.jobs[name] = job
            self.threads.submit(self._work, job)
            return job

    def get(self, name: str) -> Job:
        """The job called `name`; Refused when there is none."""
        with self.lock:
            if name not in self.jobs:
                raise Refused(404, "no such checkpoint")
            return self.jobs[name]

    def all(self) -> list[Job]:
        """Every job, oldest first."""
        with self.lock:
            return sorted(self.jobs.values(), key=lambda job: job.created)

    def delete(self, name: str) -> None:
        """Take a job from the queue, stop it, or remove what it made."""
        with self.lock:
            if self.get(name).state == "running":  # its name is free once its process has ended
                self.stopped.add(name)
                if name in self.processes:
                    self.processes[name].terminate()
            else:
                self._remove(name)

    def count(self, state: str) -> int:
        """How many jobs are in a state."""
        with self.lock:
            return sum(job.state == state for job in self.jobs.values())

    def files(self, name: str) -> dict[str, int]:
        """Names and bytes of a checkpoint's files, once it is done. No links, no subdirectories."""
        with self.lock:
            place = self.checkpoints / name
            if self.get(name).state != "done" or place.is_symlink() or not place.is_dir():
                return {}
            found = sorted(place.iterdir())
            plain = (path for path in found if path.is_file() and not path.is_symlink())
            return {path.name: path.stat().st_size for path in plain}

    def record(self, name: str) -> Record | None:
        """What the checkpoint's pruning.json says; None until it is done."""
        done = "pruning.json" in self.files(name)
        return _plain(Record, self.checkpoints / name / "pruning.json") if done else None

    def file(self, name: str, file: str) -> Path:
        """Where one of these files lies; Refused when it is none of them."""
        if file not in self.files(name):  # looked up, never put together: no way out of the folder
            raise Refused(404, "no such file")
        return self.checkpoints / name / file

    def close(self) -> None:
        """Stop what runs. What is not done is begun again by the next service over `out`."""
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
        except OSError as failure:  # no process to be had
            error = f"cannot start its process: {failure.strerror}"
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
        """Wait for the job's process; None, or one line that says what failed."""
        ours, theirs = CONTEXT.Pipe()
        args = (theirs, self.limits.workers, self.checkpoints / job.name, job.ratio, cutter)
        process = CONTEXT.Process(target=_prune, args=args, daemon=True)
        process.start()  # takes seconds the first time: not under the lock
        theirs.close()  # so that the pipe ends with the process
        with self.lock:
            self.processes[job.name] = process
            if self.closing or job.name in self.stopped:
                process.terminate()
        try:
            return ours.recv()
        except EOFError:
            return "its process died; is memory short?"
        finally:
            process.join()
            ours.close()
            with self.lock:
                del self.processes[job.name]

    def _found(self) -> dict[str, Job]:
        """What an earlier service left: its records, and whole checkpoints without one."""
        clear_leftovers(self.checkpoints)  # of jobs that were killed
        jobs = {}
        for path in self.records.glob("[!.]*.json"):
            job = _plain(Job, path)
            if job and job.name == path.stem:
                jobs[job.name] = job
        made = {}
        for place in self.checkpoints.iterdir():
            if NAME.fullmatch(place.name) and (ratio := _ratio_of(place)) is not None:
                made[place.name] = ratio
                if place.name not in jobs:
                    created = place.stat().st_mtime
                    jobs[place.name] = Job(place.name, ratio, "done", created, created)
        for job in list(jobs.values()):
            if job.name in made:
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
        place = self.checkpoints / name
        if _ratio_of(place) is not None:  # nothing that was put there by hand
            remove_dir(place)


def _ratio_of(checkpoint: Path) -> float | None:
    """The ratio of a whole checkpoint; None for anything else, and for links."""
    if checkpoint.is_symlink() or not checkpoint.is_dir():
        return None
    record = _plain(Record, checkpoint / "pruning.json")
    return record.ratio if record else None


def _plain(kind: type[T], path: Path) -> T | None:
    """What a file says, which may be from elsewhere; None where it is a link, a pipe or wrong."""
    if path.is_symlink() or not path.is_file():
        return None
    with suppress(LopError):
        return read_typed(kind, path)
    return None


def _prune(parent: Connection, workers: int, out: Path, ratio: float, cutter: Any) -> None:
    """In the job's process: cut, and send the parent None or one line that says what failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the service
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that half-written files go
    end_with_parent()
    os.nice(10)  # plans come first
    from lop import progress
    from lop.steps import pruning

    share_threads(workers)
    progress.watched = False
    try:
        pruning.prune_one(out, "lop", ratio, cutter)
    except Exception as error:  # whatever it is, whoever asks for the job gets one line
        kind = "" if isinstance(error, LopError) else f"{type(error).__name__}: "
        parent.send(kind + " ".join(str(error).split())[:500])
    else:
        parent.send(None)
