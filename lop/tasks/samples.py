"""Samples (image, question, choices, answer, category) and how they are read, split and stored.

A table of samples is a DataFrame with the columns of `COLUMNS`; on disk it is Parquet with image
bytes, which pandas and `datasets` both read.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from lop.errors import LopError
from lop.files import replacing

COLUMNS = ("id", "image_id", "images", "question", "choices", "answer", "category")
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
        '"category": {"dtype": "string", "_type": "Value"}}}}'
    },
)


def write_samples(samples: pd.DataFrame, path: str | Path) -> None:
    """Write a table of samples to Parquet, whole."""
    table = pa.Table.from_pandas(samples[list(COLUMNS)], schema=_SCHEMA, preserve_index=False)
    with replacing(path) as tmp:
        pq.write_table(table.replace_schema_metadata(_SCHEMA.metadata), tmp)


def read_samples(path: str | Path) -> pd.DataFrame:
    """Read a table of samples from Parquet, CSV or JSON lines, or from a folder with one of them.

    Needed are `question`, `answer` and `image` or `images`: bytes, {"bytes": …}, or a path
    relative to the file. `choices`, `category`, `id` and `image_id` are filled in when absent.

    Raises LopError, naming the file and row, when a column, an image or an answer is missing.
    """
    file = _find_table(Path(path))
    try:
        raw = _READERS[file.suffix](file)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise LopError(f"{file}: cannot read samples: {error}") from error
    missing = [c for c in ("question", "answer") if c not in raw]
    if "image" not in raw and "images" not in raw:
        missing.append("image")
    if missing or raw.empty:
        raise LopError(f"{file}: expected rows with image, question, answer; no {missing or 'row'}")
    rows = [_sample(row, i, file) for i, row in enumerate(raw.to_dict("records"))]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def decode_images(sample: Mapping[str, Any]) -> list[Image.Image]:
    """The sample's pictures as RGB images."""
    return [Image.open(io.BytesIO(i["bytes"])).convert("RGB") for i in sample["images"]]


def pixels(sample: Mapping[str, Any]) -> int:
    """How many pixels the sample's pictures have together; nothing is decoded."""
    sizes = [Image.open(io.BytesIO(image["bytes"])).size for image in sample["images"]]
    return sum(width * height for width, height in sizes)


def prompt_text(sample: Mapping[str, Any]) -> str:
    """The question, with its choices lettered below it when it has any."""
    choices = sample["choices"]
    if choices is None or not len(choices):
        return sample["question"]
    lettered = [f"{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(choices)]
    return "\n".join([sample["question"], *lettered])


def fingerprint(samples: pd.DataFrame) -> str:
    """Twelve hex digits that name a table of samples by its content."""
    digest = hashlib.sha256()
    for row in samples.to_dict("records"):
        digest.update(repr((row["id"], prompt_text(row), row["answer"])).encode())
        for image in row["images"]:
            digest.update(image["bytes"])
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


def draw(pool: pd.DataFrame, size: int, rng: np.random.Generator, name: str) -> pd.DataFrame:
    """`size` rows of `pool` in a random order, or LopError when it has fewer."""
    if len(pool) < size:
        raise LopError(f"{name}: wanted {size} samples, its images have only {len(pool)}")
    return pool.iloc[rng.permutation(len(pool))[:size]].reset_index(drop=True)


_READERS = {
    ".parquet": lambda f: pq.read_table(f).to_pandas(),
    ".csv": lambda f: pd.read_csv(f, dtype=str, keep_default_na=False),
    ".jsonl": lambda f: pd.read_json(f, lines=True, dtype=False),
}


def _find_table(path: Path) -> Path:
    if path.is_dir():
        found = sorted(f for f in path.iterdir() if f.suffix in _READERS)
        if len(found) != 1:
            raise LopError(
                f"{path}: expected one .parquet, .csv or .jsonl file, found {len(found)}"
            )
        return found[0]
    if not path.is_file() or path.suffix not in _READERS:
        raise LopError(f"{path}: expected a folder, or a .parquet, .csv or .jsonl file of samples")
    return path


def _sample(row: dict[str, Any], i: int, file: Path) -> dict[str, Any]:
    where = f"{file}, row {i}"
    if not isinstance(row["question"], str) or not row["question"] or row["answer"] in ("", None):
        raise LopError(f"{where}: question and answer must not be empty")
    images = row["images"] if row.get("images") is not None else [row.get("image")]
    blobs = [_image_bytes(image, file, where) for image in images]
    choices = row.get("choices")
    if isinstance(choices, str):
        choices = [c.strip() for c in choices.split("|")] if choices else None
    return {
        "id": str(row.get("id", i)),
        "image_id": str(row.get("image_id") or hashlib.sha256(b"".join(blobs)).hexdigest()[:16]),
        "images": [{"bytes": blob, "path": None} for blob in blobs],
        "question": row["question"],
        "choices": None if choices is None or not len(choices) else [str(c) for c in choices],
        "answer": str(row["answer"]),
        "category": str(row.get("category") or "all"),
    }


def _image_bytes(image: Any, file: Path, where: str) -> bytes:
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str):
        target = file.parent / image
        if not target.is_file():
            raise LopError(f"{where}: no image file {target}")
        image = target.read_bytes()
    try:
        with Image.open(io.BytesIO(image)) as picture:
            picture.verify()
    except (UnidentifiedImageError, OSError, TypeError, SyntaxError) as error:
        raise LopError(f"{where}: not an image that can be read: {error}") from error
    return image
