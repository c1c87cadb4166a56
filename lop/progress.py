"""One progress bar for all long work: rate and time left, and silence when nobody watches."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
watched = True  # worker processes switch their bars off


def progress(
    items: Iterable[T], label: str, total: int | None = None, unit: str = "it"
) -> "tqdm[T]":
    """Iterate over `items` behind a bar on standard error, when that is a terminal."""
    disable = None if watched else True  # None: shown on a terminal only
    return tqdm(items, desc=label, total=total, unit=unit, disable=disable, leave=False)
