"""One progress bar for all long work: rate and time left, and silence when nobody watches."""

import logging
import sys
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


def quiet_libraries() -> None:
    """Neither bars nor warnings of the libraries we call, unless somebody watches a terminal."""
    if sys.stderr.isatty():
        return
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for name in ("lm_eval", "datasets", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
