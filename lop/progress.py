"""One progress bar for all long work: rate and time left, and silence when nobody watches."""

import logging
import sys
from collections.abc import Iterable
from functools import partial
from threading import RLock
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
watched = True  # workers on other machines switch their bars off
line: int | None = None  # of the terminal, for this process's bar; None: the next free one


def progress(
    items: Iterable[T], label: str, total: int | None = None, unit: str = "it"
) -> "tqdm[T]":
    """Iterate over `items` behind a bar on standard error, when that is a terminal."""
    disable = None if watched else True  # None: shown on a terminal only
    options: dict[str, Any] = {"disable": disable, "leave": False, "position": line}
    return tqdm(items, desc=label, total=total, unit=unit, **options)


def share_terminal(own: int | None = None) -> None:
    """Let the bars of several processes stand below each other; `own` is this process's line."""
    global line
    line = own
    if sys.stderr.isatty():
        tqdm.set_lock(_TerminalLock())


class _TerminalLock:
    """One process writes at a time. One that dies lets go, unlike multiprocessing's own locks."""

    def __init__(self) -> None:
        import fcntl  # not on Windows, like the workers that need it

        self.threads = RLock()
        self.take = partial(fcntl.lockf, sys.stderr, fcntl.LOCK_EX)
        self.give = partial(fcntl.lockf, sys.stderr, fcntl.LOCK_UN)

    def acquire(self) -> None:
        self.threads.acquire()
        self.take()

    def release(self) -> None:
        self.give()
        self.threads.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def quiet_libraries() -> None:
    """Neither bars nor warnings of the libraries we call, unless somebody watches a terminal."""
    if sys.stderr.isatty():
        return
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for name in ("lm_eval", "datasets", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
