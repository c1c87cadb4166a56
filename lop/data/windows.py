"""Cuts documents into windows of a fixed number of tokens; each window is a text sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from lop.data.chat import Processor, plain, tokenizer_of
from lop.data.samples import document
from lop.errors import LopError


def cut(samples: pd.DataFrame, processor: Processor, size: int) -> pd.DataFrame:
    """The samples with every text cut into windows of `size` tokens; questions do not change.

    A window has its document's `image_id`, and a number appended to its id. The remainder of a
    document is a window if it has at least half of `size` tokens; a document shorter than that is
    one window. Raises LopError for a tokenizer without character offsets.
    """
    tokenizer = tokenizer_of(processor)
    if not tokenizer.is_fast:
        raise LopError(
            f"{type(tokenizer).__name__}: has no character offsets, by which texts "
            "are cut into windows; expected a fast tokenizer (tokenizer.json)"
        )
    rows: list[dict[Any, Any]] = []
    for row in samples.to_dict("records"):
        if (text := document(row)) is None:
            rows.append(row)
            continue
        parts = _windows(plain(processor, text), tokenizer, size)
        rows += [row | {"id": f"{row['id']}-{i}", "text": part} for i, part in enumerate(parts)]
    return pd.DataFrame(rows, columns=samples.columns, dtype=object)


def _windows(text: str, tokenizer: Any, size: int) -> Iterator[str]:
    found = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )["offset_mapping"]  # fmt: skip
    starts = [found[i][0] for i in range(0, len(found), size)]
    if len(starts) > 1 and len(found) % size and len(found) % size < size / 2:
        text, starts = text[: starts[-1]], starts[:-1]
    for start, end in zip([0, *starts[1:]], [*starts[1:], len(text)], strict=True):
        if text[start:end].strip():
            yield text[start:end]
