"""Independent pieces of work on the cores of one machine: fresh processes, one thread each.

Small models leave cores idle when one process uses them all, and a process of its own is also what
makes a memory measurement mean something. Modules are imported once, in a server process that the
workers are forked from before any thread has started.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from lop import progress

T = TypeVar("T")
Run = Callable[..., Any]
Each = Callable[[Callable[..., T], Iterable[tuple[Any, ...]]], list[T]]


@contextmanager
def processes(count: int, modules: list[str], fresh: bool = False) -> Iterator[Run]:
    """Yield `run(function, *args)`, which calls it in one of `count` processes and waits.

    `run` may be called from several threads at once. `modules` are imported before forking; with
    `fresh`, each call gets a process of its own. A count of 1 is this very process, unless fresh.
    """
    if count == 1 and not fresh:
        with ThreadPoolExecutor(1) as alone:  # callers may be many threads, models are not shared
            yield lambda function, *args: alone.submit(function, *args).result()
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(modules)
    threads = max(1, (os.cpu_count() or 1) // count)
    with ProcessPoolExecutor(
        count, context, _start, (threads,), max_tasks_per_child=1 if fresh else None
    ) as pool:
        yield lambda function, *args: pool.submit(function, *args).result()


def at_once(count: int, label: str) -> Each[Any]:
    """A function that calls `work` for each key from `count` threads, behind a progress bar."""

    def each(work: Callable[..., T], keys: Iterable[tuple[Any, ...]]) -> list[T]:
        keys = list(keys)
        with ThreadPoolExecutor(count) as threads:
            results = threads.map(lambda key: work(*key), keys)
            return list(progress.progress(results, label, len(keys)))

    return each


def _start(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    progress.watched = False  # bars of several processes would write over each other
