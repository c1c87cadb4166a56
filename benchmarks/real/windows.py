"""Windows of text: samples of equal length in tokens, as even over documents as can be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from lop.errors import LopError


def draw(
    documents: pd.DataFrame, tokenizer: Any, length: int, count: int, seed: int
) -> pd.DataFrame:
    """`count` samples of `length` tokens each, no two of which overlap.

    Every document gives one before any gives a second; a sample's `image_id` is its document's id.
    Raises LopError when the documents do not have so many.
    """
    rng = np.random.default_rng(seed)
    queues = [list(_of(row, tokenizer, length, rng)) for row in documents.to_dict("records")]
    rounds: list[dict[str, Any]] = []
    while len(rounds) < count and any(queues):
        taken = [queue.pop() for queue in queues if queue]
        rounds += [taken[i] for i in rng.permutation(len(taken))]
    if len(rounds) < count:
        raise LopError(f"{len(rounds)} windows of {length} tokens in the text, expected {count}")
    return pd.DataFrame(rounds[:count], columns=documents.columns, dtype=object)


def _of(
    row: dict[str, Any], tokenizer: Any, length: int, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """A document's windows, from a random place on, in random order."""
    ids = tokenizer.encode(row["text"], add_special_tokens=False)
    if len(ids) < length:
        return
    first = rng.integers(min(length, len(ids) - length + 1))
    starts = np.arange(first, len(ids) - length + 1, length)
    for start in rng.permutation(starts).tolist():
        text = tokenizer.decode(ids[start : start + length])
        yield row | {"id": f"{row['id']}:{start}", "image_id": row["id"], "text": text}
