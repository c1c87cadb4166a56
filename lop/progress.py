"""Progress bars with rate and remaining time; nothing is shown if standard error is no terminal."""

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
watched = True  # False in workers on other machines: no bars
line: int | None = None  # terminal line of this process's bar; None: the next free line


def progress(
    items: Iterable[T], label: str, total: int | None = None, unit: str = "it"
) -> "tqdm[T]":
    """Iterate over `items` with a progress bar on standard error if that is a terminal."""
    disable = None if watched else True  # None: shown on a terminal only
    options: dict[str, Any] = {"disable": disable, "leave": False, "position": line}
    return tqdm(items, desc=label, total=total, unit=unit, **options)


def share_terminal(own: int | None = None) -> None:
    """Show the bars of several processes below each other; `own` is this process's line."""
    global line
    line = own
    if sys.stderr.isatty():
        tqdm.set_lock(_TerminalLock())


class Course:
    """Shows the progress of several steps: the current step and the remaining time.

    `expected` are seconds by step, in order. The remaining time is corrected by the time that
    earlier steps took. A terminal shows a bar, with the step's bar below it; other outputs get one
    line for each step.
    """

    def __init__(self, expected: Mapping[str, float]) -> None:
        self.expected = dict(expected)
        self.took: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show and time one step, the block; steps must start in order."""
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
        """Leave out a step that an earlier run finished; it does not count for the pace."""
        del self.expected[name]

    def said(self, name: str, elapsed: float = 0.0) -> str:
        """The line for a step: its number and name, and the remaining time of all steps."""
        names = list(self.expected)
        left = self.left(name, elapsed)
        return f"{names.index(name) + 1} of {len(names)}, {name}: about {_span(left)} left"

    def left(self, name: str, elapsed: float = 0.0) -> float:
        """The remaining seconds of all steps, `elapsed` seconds after the step started."""
        names = list(self.expected)
        later = sum(self.expected[each] for each in names[names.index(name) + 1 :])
        pace = self._pace()
        return max(0.0, pace * self.expected[name] - elapsed) + pace * later

    def done(self, name: str, elapsed: float = 0.0) -> float:
        """The expected seconds of the finished part of the work."""
        before = sum(self.expected[each] for each in self.took)
        return before + min(elapsed / self._pace(), self.expected[name])

    def _pace(self) -> float:
        """Measured over expected seconds of the finished steps, close to 1 while they are short."""
        doubt = 0.2 * sum(self.expected.values())
        expected = sum(self.expected[each] for each in self.took)
        return (sum(self.took.values()) + doubt) / (expected + doubt)


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _TerminalLock:
    """A lock of the terminal for several processes. Unlike multiprocessing's locks, it is released
    if its process is killed."""

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
    """Turn off progress bars and warnings of libraries, unless standard error is a terminal."""
    if sys.stderr.isatty():
        return
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for name in ("lm_eval", "datasets", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
