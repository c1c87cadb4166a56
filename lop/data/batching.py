"""Batches as large as memory allows: one that is too large is tried again with half as many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from accelerate.utils import release_memory
from accelerate.utils.memory import should_reduce_batch_size

T = TypeVar("T")


class Fitting:
    """Does work on some items at once, at most `most`, and on fewer where memory is short.

    What has once been too many is not tried again.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most

    def __call__(self, count: int, work: Callable[[slice], T]) -> Iterator[T]:
        """What `work` makes of each part of so many items, in order.

        Raises what `work` raises, out-of-memory errors where it had a single item.
        """
        start = 0
        while start < count:
            part = slice(start, min(count, start + (self.most or count)))
            size = part.stop - part.start
            try:
                found = work(part)
            except RuntimeError as error:
                if not _is_too_large(size, error):
                    raise
                self.most = size // 2
            else:
                yield found
                start = part.stop
                continue
            release_memory()  # the error has gone, and what it held


def restarting(batch_size: int, work: Callable[[int], T]) -> T:
    """What `work` makes with a batch size; where memory is short it begins anew with half of it.

    For work that cannot go on from where it was. (As accelerate's `find_executable_batch_size`, but
    what is raised at a batch size of 1 is the error itself.)
    """
    while True:
        try:
            return work(batch_size)
        except RuntimeError as error:
            if not _is_too_large(batch_size, error):
                raise
        batch_size //= 2
        release_memory()


def _is_too_large(size: int, error: Exception) -> bool:
    """Whether an error says that memory is short for so many items, which are more than one."""
    return size > 1 and should_reduce_batch_size(error)
