"""One progress bar for all long work: rate and time left, and silence when nobody watches."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import Event, RLock, Thread
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


class Course:
    """Work of several steps behind one display: the step it is at, and the time that is left.

    `expected` are seconds by step, in order. What is left is corrected by how long the steps before
    took. On a terminal it is a bar, with the step's own below it; elsewhere a line a step.
    """

    def __init__(self, expected: Mapping[str, float]) -> None:
        self.expected = dict(expected)
        self.took: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """The time of one of the steps, which are begun in order."""
        global line
        begun, ended, before = time.monotonic(), Event(), line
        if not sys.stderr.isatty():
            print(self.said(name), file=sys.stderr, flush=True)
            yield
            self.took[name] = time.monotonic() - begun
            return
        share_terminal(1)
        form = "{desc} {percentage:3.0f}%|{bar}|"
        with tqdm(total=sum(self.expected.values()), position=0, bar_format=form) as bar:

            def show() -> None:
                while True:
                    bar.n = self.done(name, time.monotonic() - begun)
                    bar.set_description_str(self.said(name, time.monotonic() - begun))
                    if ended.wait(1):
                        return

            shown = Thread(target=show, daemon=True)
            shown.start()
            try:
                yield
            finally:
                ended.set()
                shown.join()
                bar.leave = False
                line = before
        self.took[name] = time.monotonic() - begun

    def skip(self, name: str) -> None:
        """A step that was done before: it says nothing of the pace."""
        del self.expected[name]

    def said(self, name: str, elapsed: float = 0.0) -> str:
        """Which step of how many, and how long all that is left will take."""
        names = list(self.expected)
        left = self.left(name, elapsed)
        return f"{names.index(name) + 1} of {len(names)}, {name}: about {_span(left)} left"

    def left(self, name: str, elapsed: float = 0.0) -> float:
        """Seconds that are left, so long after a step began."""
        names = list(self.expected)
        later = sum(self.expected[each] for each in names[names.index(name) + 1 :])
        pace = self._pace()
        return max(0.0, pace * self.expected[name] - elapsed) + pace * later

    def done(self, name: str, elapsed: float = 0.0) -> float:
        """What is done, in the seconds that were expected for it."""
        before = sum(self.expected[each] for each in self.took)
        return before + min(elapsed / self._pace(), self.expected[name])

    def _pace(self) -> float:
        """How many times as long as expected things take, by the steps before: short ones say
        little."""
        doubt = 0.2 * sum(self.expected.values())
        expected = sum(self.expected[each] for each in self.took)
        return (sum(self.took.values()) + doubt) / (expected + doubt)


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
