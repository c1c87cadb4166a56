"""Batches as large as memory allows: one that does not fit is halved and tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from accelerate.utils import release_memory
from accelerate.utils.memory import should_reduce_batch_size

T = TypeVar("T")


class Fitting:
    """Runs work on batches of at most `most` items; the batch size is halved when memory runs out.

    A size that did not fit is not tried again.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most

    def __call__(self, count: int, work: Callable[[slice], T]) -> Iterator[T]:
        """The results of `work` for each part of `count` items, in order.

        Raises the errors of `work`; an out-of-memory error only for a single item.
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
            release_memory()  # after the except block, which held references to tensors


def restarting(batch_size: int, work: Callable[[int], T]) -> T:
    """The result of `work` with a batch size; if memory runs out, it starts again with half the
    size.

    For work that cannot continue in the middle. (Like accelerate's `find_executable_batch_size`,
    but at a batch size of 1 it raises the original error.)
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
    """Whether an error is an out-of-memory error for more than one item."""
    return size > 1 and should_reduce_batch_size(error)
