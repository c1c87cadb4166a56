"""Samples (images, question, choices, answers, category) and how they are read, split and stored.

A table of samples is a DataFrame with the columns of `COLUMNS`; on disk it is Parquet with image
bytes, which pandas and `datasets` both read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL.Image import Image

from lop.errors import LopError
from lop.files import replacing
from lop.tasks import pictures
from lop.tasks.rows import find_table, read_rows, sample_of

COLUMNS = ("id", "image_id", "images", "question", "choices", "answer", "category", "answers")
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image_id", pa.string()),
        ("images", pa.list_(_IMAGE)),
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("category", pa.string()),
        ("answers", pa.list_(pa.string())),
    ],
    # lets `datasets` decode the column to pictures
    metadata={
        "huggingface": '{"info": {"features": {'
        '"id": {"dtype": "string", "_type": "Value"},'
        '"image_id": {"dtype": "string", "_type": "Value"},'
        '"images": {"feature": {"_type": "Image"}, "_type": "List"},'
        '"question": {"dtype": "string", "_type": "Value"},'
        '"choices": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},'
        '"answer": {"dtype": "string", "_type": "Value"},'
        '"category": {"dtype": "string", "_type": "Value"},'
        '"answers": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}}}}'
    },
)


def write_samples(samples: pd.DataFrame, path: str | Path) -> None:
    """Write a table of samples to Parquet, whole."""
    answers = [accepted(row) for row in samples.to_dict("records")]
    whole = samples.assign(answers=pd.Series(answers, samples.index, dtype=object))
    table = pa.Table.from_pandas(whole[list(COLUMNS)], schema=_SCHEMA, preserve_index=False)
    with replacing(path) as tmp:
        pq.write_table(table.replace_schema_metadata(_SCHEMA.metadata), tmp)


def read_samples(path: str | Path) -> pd.DataFrame:
    """Read a table of samples from Parquet, CSV or JSON lines, or from a folder with one of them.

    Columns, of which `image` or `images`, `question` and `answer` must be there in every row:

    - `image`: the picture's bytes, {"bytes": …} as Hugging Face writes it, base64 text, a data URL,
      or a path relative to the file. `images` has a list of those, or paths as `a.png|b.png`.
    - `question`: text.
    - `answer`: text or a number, or a list of them, any of which counts as right; the first one is
      what a reward takes. `answers` adds further ones. Booleans are refused: yes or true?
    - `choices`: a list of texts or numbers, or `a|b|c`; a row may have none.
    - `category`: text, `all` where there is none. `id`: text or a number, by default the number of
      the row, from 0. `image_id`: likewise, by default a digest of the pictures.

    Raises LopError, naming the file and row, for a cell that is none of this, a picture that cannot
    be decoded, and an id that two rows have.
    """
    file = find_table(Path(path))
    rows: dict[str, tuple[int, dict[str, Any]]] = {}
    for i, row in enumerate(read_rows(file)):
        try:
            sample = sample_of(row, i, file.parent)
        except LopError as error:
            raise LopError(f"{file}, row {i}: {error}") from error
        first, _ = rows.setdefault(sample["id"], (i, sample))
        if first != i:
            raise LopError(f"{file}, row {i}: id {sample['id']!r} is that of row {first}, too")
    return pd.DataFrame([sample for _, sample in rows.values()], columns=list(COLUMNS))


def accepted(sample: Mapping[str, Any]) -> list[str]:
    """The answers of a sample that count as right, at least one; the first is its `answer`."""
    answers = sample.get("answers")
    if answers is None or isinstance(answers, float) or not len(answers):
        return [sample["answer"]]
    return list(answers)


def decode_images(sample: Mapping[str, Any]) -> list[Image]:
    """The sample's pictures as RGB images, upright; LopError, naming the sample, for a bad one."""
    try:
        return [pictures.decode(image["bytes"]) for image in sample["images"]]
    except LopError as error:
        raise LopError(f"sample {sample.get('id', '')}: {error}") from error


def pixels(sample: Mapping[str, Any]) -> int:
    """How many pixels the sample's pictures have together; nothing is decoded."""
    sizes = [pictures.size(image["bytes"]) for image in sample["images"]]
    return sum(width * height for width, height in sizes)


def prompt_text(sample: Mapping[str, Any]) -> str:
    """The question, with its choices lettered below it when it has any."""
    choices = sample["choices"]
    if choices is None or not len(choices):
        return sample["question"]
    lettered = [f"{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(choices)]
    return "\n".join([sample["question"], *lettered])


def fingerprint(samples: pd.DataFrame) -> str:
    """Twelve hex digits that name a table of samples by its content: all of it, in order."""
    digest = hashlib.sha256()
    for row in samples.to_dict("records"):
        choices = None if row["choices"] is None else list(row["choices"])
        texts = [row[name] for name in ("id", "image_id", "question", "category")]
        images = [hashlib.sha256(image["bytes"]).hexdigest() for image in row["images"]]
        digest.update(json.dumps([*texts, choices, accepted(row), images]).encode())
    return digest.hexdigest()[:12]


def split_by_image(
    samples: pd.DataFrame, sizes: Mapping[str, int], seed: int
) -> dict[str, pd.DataFrame]:
    """Draw tables of the given sizes so that no image is in two of them.

    Images are shuffled and dealt to the tables in proportion to their sizes; then each table is
    drawn from its own images. Raises LopError when there are too few samples.
    """
    rng = np.random.default_rng(seed)
    images = rng.permutation(sorted(samples["image_id"].unique()))
    shares = np.cumsum(list(sizes.values())) / sum(sizes.values())
    ends = np.round(shares * len(images)).astype(int)
    tables = {}
    for name, start, end in zip(sizes, [0, *ends[:-1]], ends, strict=True):
        pool = samples[samples["image_id"].isin(images[start:end])]
        tables[name] = draw(pool, sizes[name], rng, name)
    return tables


def split_with_rest(
    samples: pd.DataFrame, sizes: Mapping[str, int], rest: str, seed: int
) -> dict[str, pd.DataFrame]:
    """Tables of the given sizes, and `rest` with all samples of the images that none of them has.

    Images are shuffled; each table takes as many of the next ones as its samples need. Raises
    LopError when there are too few samples.
    """
    rng = np.random.default_rng(seed)
    images = rng.permutation(sorted(samples["image_id"].unique()))
    counts = samples["image_id"].value_counts()[images].cumsum().to_numpy()
    tables, start, had = {}, 0, 0
    for name, size in sizes.items():
        end = int(np.searchsorted(counts, had + size)) + 1
        pool = samples[samples["image_id"].isin(images[start:end])]
        tables[name] = draw(pool, size, rng, name)
        start, had = end, counts[end - 1]
    left = samples[samples["image_id"].isin(images[start:])]
    if left.empty:
        raise LopError(f"{rest}: no image is left; the source has {len(images)}")
    return tables | {rest: draw(left, len(left), rng, rest)}


def draw(pool: pd.DataFrame, size: int, rng: np.random.Generator, name: str) -> pd.DataFrame:
    """`size` rows of `pool` in a random order, or LopError when it has fewer."""
    if len(pool) < size:
        raise LopError(f"{name}: wanted {size} samples, its images have only {len(pool)}")
    return pool.iloc[rng.permutation(len(pool))[:size]].reset_index(drop=True)
