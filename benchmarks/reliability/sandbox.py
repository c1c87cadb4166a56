"""Runs commands of lop in processes of their own, forked from one that has imported everything.

A fork costs a hundredth of a start, and what a command does to its process (a crash, a hang, memory
without end) ends with it. The process that forks must never have used torch or pyarrow itself:
their threads do not survive a fork. So whatever needs them runs in a fork, too.
"""

from __future__ import annotations

import gc
import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

Job = TypeVar("Job")

STEPS = [f"lop.steps.{path.stem}" for path in Path("lop/steps").glob("[!_]*.py")]
MODULES = [
    *STEPS, "lop.evaluation.answers", "lop.evaluation.lm", "lop.evaluation.footprint",
    "lop.report", "lop.report.diff",
    "lop.serving", "lop.tracking", "lm_eval.tasks", "mlflow", "matplotlib.pyplot", "datasets",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "transformers.models.qwen2_5_vl.processing_qwen2_5_vl",
]  # fmt: skip
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
UNSET = ("MLFLOW_TRACKING_URI", "LOP_SERVE_TOKEN", "LOP_UNTRACKED")
BROKEN = 99  # the exit code of a process in which our own code failed, not lop's


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (minus the signal, if it was one) and what it printed."""

    code: int
    seconds: float
    out: str
    err: str
    late: bool = False  # it had to be stopped


@dataclass
class Running:
    """A process at work. Its output lies in `<logs>.out` and `<logs>.err`."""

    pid: int
    logs: Path
    begun: float

    @classmethod
    def start(
        cls, folder: Path, run: Callable[[], int | None], logs: Path, memory: int | None = None
    ) -> Running:
        """Fork a process that calls `run` in `folder`, in a session of its own.

        `memory` bytes are what it may ask for beyond what it has.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            os._exit(_in_child(folder, run, logs, memory))
        return cls(pid, logs, time.monotonic())

    @property
    def out(self) -> str:
        return _text(Path(f"{self.logs}.out"))

    def ended(self) -> Ended | None:
        """How it ended; None while it is at work."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        seconds = time.monotonic() - self.begun
        err = _text(Path(f"{self.logs}.err"))
        return Ended(os.waitstatus_to_exitcode(status), seconds, self.out, err)

    def wait(self, seconds: float) -> Ended:
        """How it ended, by itself or, so many seconds after its start, by force."""
        while (found := self.ended()) is None:
            if time.monotonic() - self.begun > seconds:
                return self.kill()
            time.sleep(0.01)
        return found

    def kill(self) -> Ended:
        """Stop it, and all it started."""
        self.end_family()
        while (found := self.ended()) is None:
            time.sleep(0.005)
        return Ended(found.code, found.seconds, found.out, found.err, late=True)

    def family(self) -> list[int]:
        """Processes of its session that are alive; those that it started belong to it."""
        found = []
        for pid in psutil.pids():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                alive = psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
                if os.getsid(pid) == self.pid and alive:
                    found.append(pid)
        return found

    def end_family(self) -> None:
        """Kill whatever is left of its session."""
        for pid in self.family():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def prepare() -> None:
    """Import what commands import, and set what they find in their environment."""
    os.environ.update(ENVIRONMENT)
    for name in UNSET:
        os.environ.pop(name, None)
    for name in MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # forks share what is never touched


def run(folder: Path, work: Callable[[], int | None], logs: Path, seconds: float = 600) -> Ended:
    """Call `work` in a process of its own, and wait for it."""
    return Running.start(folder, work, logs).wait(seconds)


def run_all(
    jobs: Iterable[Job],
    start: Callable[[Job], Running],
    seconds: float,
    at_once: int,
    done: Callable[[Running], bool] = lambda running: False,
) -> Iterator[tuple[Job, Ended]]:
    """Start a process a job, `at_once` at a time; gives each job as it ends.

    A process is stopped after so many seconds, and as soon as it is `done`.
    """
    waiting, running = iter(jobs), dict[int, tuple[Job, Running]]()
    more = True
    while running or more:
        while more and len(running) < at_once:
            job = next(waiting, None)
            more = job is not None
            if job is not None:
                process = start(job)
                running[process.pid] = job, process
        for pid, (job, process) in list(running.items()):
            late = time.monotonic() - process.begun > seconds
            ended = process.ended()
            if ended is None and (late or done(process)):
                stopped = process.kill()
                ended = Ended(stopped.code, stopped.seconds, stopped.out, stopped.err, late)
            if ended is not None:
                process.end_family()
                del running[pid]
                yield job, ended
        time.sleep(0.01)


def _in_child(folder: Path, run: Callable[[], int | None], logs: Path, memory: int | None) -> int:
    try:
        os.setsid()
        os.chdir(folder)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{logs}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for handled in (signal.SIGINT, signal.SIGTERM):
            signal.signal(handled, signal.default_int_handler if handled == 2 else signal.SIG_DFL)
        if memory:
            limit = psutil.Process().memory_info().vms + memory
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = run() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # as Python itself ends a program
        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
    return code


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
