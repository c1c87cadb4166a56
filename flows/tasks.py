"""Runs a stage's independent tasks: in processes or threads here, or on a Dask or Ray cluster.

Each is a Prefect task with retries, with any runner. Tasks on a cluster are functions of file
paths: its workers must start in the same directory (on one machine, or on shared storage).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.server import prefect_server
from lop import progress
from lop.errors import LopError, explaining
from lop.settings.types import Runner
from lop.workers import Each, gpus, processes

T = TypeVar("T")
RETRIES = 2


@dataclass(frozen=True)
class Place:
    """A stage's runner (params: `runner`), the number of tasks at once, and a cluster's address."""

    runner: Runner = "processes"
    workers: int = 1
    address: str | None = None  # None: a cluster on this machine, for the stage only

    def task_runner(self) -> TaskRunner[Any]:
        """The Prefect task runner; ModuleNotFoundError for one that is not installed."""
        if self.runner in ("processes", "threads"):
            # threads use the same GPUs, and two models may not fit on one
            alone = self.runner == "threads" and gpus()
            return ThreadPoolTaskRunner(max_workers=1 if alone else self.workers)
        if self.runner == "dask":
            # one thread for each worker; Dask sets one thread for torch too
            here = {"n_workers": self.workers, "threads_per_worker": 1, "dashboard_address": ":0"}
            cluster = None if self.address else here
            runner = import_module("prefect_dask").DaskTaskRunner
            return runner(address=self.address, cluster_kwargs=cluster)
        cluster = None if self.address else {"num_cpus": self.workers}
        return import_module("prefect_ray").RayTaskRunner(address=self.address, init_kwargs=cluster)

    @contextmanager
    def server(self) -> Iterator[None]:
        """A Prefect server for the block; without it each worker of a cluster would start its
        own."""
        if self.runner in ("processes", "threads") or PREFECT_API_URL.value():
            yield
            return
        with prefect_server() as url, temporary_settings({PREFECT_API_URL: url}):
            try:
                yield
            finally:  # late logs are retried for a minute
                APILogHandler().flush()


def as_tasks(place: Place, modules: list[str], fresh: bool = False) -> Each[Any]:
    """A function that calls `work` for each key as a Prefect task, all at once, named by the key.

    All calls finish before the first failure is raised. `modules` and `fresh` are as in
    `lop.workers.processes`.
    """

    def each(work: Callable[..., T], keys: Iterable[tuple[Any, ...]]) -> list[T]:
        if place.runner == "processes":
            # Not Prefect's process pool: each of its processes imports torch and Prefect again, and
            # one that dies ends all others. So Prefect's threads wait for lop's processes.
            with processes(place.workers, modules, fresh) as run:
                return _finish(partial(run, work), keys)
        return _finish(work if place.runner == "threads" else partial(_unwatched, work), keys)

    return each


def _finish(work: Callable[..., T], keys: Iterable[tuple[Any, ...]]) -> list[T]:
    @task(
        task_run_name="{name}",
        cache_policy=NO_CACHE,
        retries=RETRIES,
        retry_condition_fn=lambda _task, _run, state: not isinstance(state.data, LopError),
    )
    def one(name: str, key: tuple[Any, ...]) -> T:
        with explaining():
            return work(*key)

    futures: list[PrefectFuture[T]] = [one.submit("-".join(map(str, key)), key) for key in keys]
    for future in progress.progress(futures, "tasks", len(futures), "task"):
        future.wait()
    return [future.result() for future in futures]


def _unwatched(work: Callable[..., T], *key: Any) -> T:
    progress.watched = False
    return work(*key)
