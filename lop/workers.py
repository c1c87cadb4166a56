"""Independent tasks on the cores or GPUs of one machine: new processes, one thread each.

One process cannot keep all cores busy with a small model, and memory can only be measured in a
separate process. Modules are imported once, in a fork server, before it starts any thread; workers
are forked from it.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial, wraps
from queue import SimpleQueue
from threading import Lock, Thread, local
from typing import Any, ParamSpec, TypeVar

from lop import progress
from lop.errors import LopError, explaining

P = ParamSpec("P")
T = TypeVar("T")
Run = Callable[..., Any]
Each = Callable[[Callable[..., T], Iterable[tuple[Any, ...]]], list[T]]

TRIES = 3  # of a call whose worker dies
VISIBLE = "CUDA_VISIBLE_DEVICES"  # the environment variable that limits which GPUs CUDA uses


@contextmanager
def processes(count: int, modules: list[str], fresh: bool = False) -> Iterator[Run]:
    """Yield `run(function, *args)`, which calls it in one of `count` processes and waits.

    `run` may be called from several threads at once. `modules` are imported before forking; with
    `fresh`, each call gets a new process. A count of 1 uses the calling process, unless `fresh`. On
    a machine with GPUs, there are at most as many processes as GPUs, and each process sees only its
    own share of them.

    If a process dies, its call is repeated; LopError after TRIES deaths.
    """
    devices = gpus()
    count = min(count, len(devices)) if devices else count
    if count == 1 and not fresh:
        with ThreadPoolExecutor(1) as alone:  # several callers must not share a model
            yield lambda function, *args: alone.submit(function, *args).result()
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(modules)
    # One pool for each worker: when a process of a pool dies, Python ends the whole pool.
    pools: dict[int, ProcessPoolExecutor] = {}
    free: SimpleQueue[int] = SimpleQueue()
    progress.share_terminal()
    for line in range(1, count + 1):
        free.put(line)

    def run(function: Callable[..., T], *args: Any) -> T:
        line = free.get()
        try:
            for _ in range(TRIES):
                if line not in pools:
                    own = devices[(line - 1) * len(devices) // count : line * len(devices) // count]
                    pools[line] = ProcessPoolExecutor(1, context, _start, (count, line, own))
                with suppress(BrokenProcessPool):
                    return pools[line].submit(_work, function, *args).result()
                pools.pop(line).shutdown()
            raise LopError(
                f"a worker process died {TRIES} times in the same task; "
                "if it ran out of memory, set fewer workers"
            )
        finally:
            if fresh and line in pools:
                pools.pop(line).shutdown()
            free.put(line)

    try:
        yield run
    finally:
        for pool in list(pools.values()):
            pool.shutdown()


def at_once(count: int, label: str) -> Each[Any]:
    """A function that calls `work` for each key from `count` threads, behind a progress bar."""

    def each(work: Callable[..., T], keys: Iterable[tuple[Any, ...]]) -> list[T]:
        keys = list(keys)
        with ThreadPoolExecutor(count) as threads:
            results = threads.map(lambda key: work(*key), keys)
            return list(progress.progress(results, label, len(keys)))

    return each


def in_processes(count: int, label: str, modules: list[str], fresh: bool = False) -> Each[Any]:
    """`at_once`, with each call in one of `processes`."""

    def each(work: Callable[..., T], keys: Iterable[tuple[Any, ...]]) -> list[T]:
        with processes(count, modules, fresh) as run:
            return at_once(count, label)(partial(run, work), keys)

    return each


def once_a_thread(make: Callable[P, T]) -> Callable[P, T]:
    """Cache the last result of `make` in each thread: two threads must not share a model.

    Calls of `make` run one at a time, because transformers changes torch's defaults while it loads.
    """
    mine, making = local(), Lock()

    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> T:
        if getattr(mine, "key", None) != (args, kwargs):
            with making:
                mine.value, mine.key = make(*args, **kwargs), (args, kwargs)
        return mine.value

    return made


def gpus() -> list[str]:
    """CUDA's names of the GPUs that this process may use; does not initialise CUDA."""
    import torch

    numbers = [str(i) for i in range(torch.cuda.device_count())]
    visible = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return visible[: len(numbers)] or numbers


def share_threads(count: int) -> None:
    """Give torch a share of 1 / `count` of the threads: of OMP_NUM_THREADS, or of the cores that
    this process may use. (In a forked process, torch starts with one thread.)"""
    import torch

    setting = os.environ.get("OMP_NUM_THREADS", "")
    cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    torch.set_num_threads(max(1, (int(setting) if setting.isdecimal() else len(cores)) // count))


def _work(function: Callable[..., T], *args: Any) -> T:
    with explaining():
        return function(*args)


def end_with_parent() -> None:
    """Make this process end when its parent process ends, for whatever reason.

    The fork server ends with the last of these processes.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()  # type: ignore[union-attr]
        os._exit(1)

    if parent is not None:
        Thread(target=watch, daemon=True).start()


def _start(count: int, line: int, devices: list[str]) -> None:
    if devices:  # before CUDA is initialised: it reads the variable only once
        os.environ[VISIBLE] = ",".join(devices)
    end_with_parent()
    share_threads(count)
    progress.share_terminal(line)
