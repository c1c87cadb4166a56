"""Independent pieces of work on the cores or GPUs of one machine: fresh processes, one thread each.

Small models leave cores idle when one process uses them all, and a process of its own is also what
makes a memory measurement mean something. Modules are imported once, in a server process that the
workers are forked from before any thread has started.
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
VISIBLE = "CUDA_VISIBLE_DEVICES"  # the environment variable by which CUDA shows some GPUs only


@contextmanager
def processes(count: int, modules: list[str], fresh: bool = False) -> Iterator[Run]:
    """Yield `run(function, *args)`, which calls it in one of `count` processes and waits.

    `run` may be called from several threads at once. `modules` are imported before forking; with
    `fresh`, each call gets a process of its own. A count of 1 is this very process, unless fresh.
    Where there are GPUs, no two processes have the same one: there are at most as many processes,
    and each sees its share of the GPUs alone.

    A process that dies costs the call it was at, which is made again; LopError after TRIES deaths.
    """
    devices = gpus()
    count = min(count, len(devices)) if devices else count
    if count == 1 and not fresh:
        with ThreadPoolExecutor(1) as alone:  # callers may be many threads, models are not shared
            yield lambda function, *args: alone.submit(function, *args).result()
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(modules)
    # A pool a worker: when one process of a pool dies, Python ends all of that pool.
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
                f"a worker process died {TRIES} times at the same work; "
                "if memory is short, set fewer workers"
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
    """Each thread keeps what it made last: models are not for two threads at a time.

    Threads make one after the other, as transformers changes torch's defaults while it loads.
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
    """The names by which CUDA knows the GPUs that this process may use; none is touched."""
    import torch

    numbers = [str(i) for i in range(torch.cuda.device_count())]
    told = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return told[: len(numbers)] or numbers


def share_threads(count: int) -> None:
    """Let torch use a `count`-th of the threads it would use alone: those of OMP_NUM_THREADS, else
    of the cores that this process may run on. (A forked process of torch's begins with one.)"""
    import torch

    told = os.environ.get("OMP_NUM_THREADS", "")
    mine = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    torch.set_num_threads(max(1, (int(told) if told.isdecimal() else len(mine)) // count))


def _work(function: Callable[..., T], *args: Any) -> T:
    with explaining():
        return function(*args)


def end_with_parent() -> None:
    """From now on this process ends when the one that asked for it does, however that ends.

    Its fork server ends with the last of such processes.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()  # type: ignore[union-attr]
        os._exit(1)

    if parent is not None:
        Thread(target=watch, daemon=True).start()


def _start(count: int, line: int, devices: list[str]) -> None:
    if devices:  # before anything here asks CUDA, which looks but once
        os.environ[VISIBLE] = ",".join(devices)
    end_with_parent()
    share_threads(count)
    progress.share_terminal(line)
