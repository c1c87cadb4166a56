"""Samples (images, question, choices, answers, category; or text) and how they are read and stored.

A sample is a question, with or without pictures and with or without a known answer, or a text whose
own tokens are to be predicted. `image_id` names the content that samples share: pictures, a
document, or the text of a question; splits and standard errors use it.

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

from lop.data import pictures
from lop.data.rows import find_tables, read_rows, sample_of
from lop.errors import LopError
from lop.files import replacing

COLUMNS = (
    "id",
    "image_id",
    "images",
    "question",
    "choices",
    "answer",
    "category",
    "answers",
    "text",
)
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
        ("text", pa.string()),
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
        '"answers": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},'
        '"text": {"dtype": "string", "_type": "Value"}}}}'
    },
)


def write_samples(samples: pd.DataFrame, path: str | Path) -> None:
    """Write a table of samples to Parquet, atomically."""
    rows = samples.to_dict("records")
    nullable = {"answer": label, "answers": accepted, "text": document}
    columns = {name: [of(row) for row in rows] for name, of in nullable.items()}
    whole = samples.assign(
        **{name: pd.Series(of, samples.index, dtype=object) for name, of in columns.items()}
    )
    table = pa.Table.from_pandas(whole[list(COLUMNS)], schema=_SCHEMA, preserve_index=False)
    with replacing(path) as tmp:
        pq.write_table(table.replace_schema_metadata(_SCHEMA.metadata), tmp)


def read_samples(path: str | Path) -> pd.DataFrame:
    """Read samples from Parquet, CSV, JSON lines or text, or from a folder with one such table.

    A row has a question or a text. Its columns:

    - `question`: text.
    - `image`: the picture's bytes, {"bytes": …} as Hugging Face writes it, base64 text, a data URL,
      or a path relative to the file. `images` has a list of those, or paths as `a.png|b.png`. A
      question may be about none.
    - `answer`: text or a number, or a list of them, any of which counts as right; the first one is
      what a reward takes. `answers` adds further ones. Booleans are refused: yes or true? It may be
      missing, as in a log of prompts.
    - `choices`: a list of texts or numbers, or `a|b|c`; a row may have none.
    - `text`: a document, where the row has no question. A .txt file is one, and a folder without a
      table is as many as it has .txt files, named after them.
    - `category`: text, `all` where there is none. `id`: text or a number, by default the number of
      the row, from 0. `image_id`: likewise, by default a digest of the pictures, else of the text
      or question.

    Raises LopError, naming the file and row, for a cell that is none of this, a picture that cannot
    be decoded, and an id that two rows have.
    """
    rows: dict[str, tuple[str, dict[str, Any]]] = {}
    for file in find_tables(Path(path)):
        for i, row in enumerate(read_rows(file)):
            place = f"{file}, row {i}"
            try:
                sample = sample_of(row, i, file.parent)
            except LopError as error:
                raise LopError(f"{place}: {error}") from error
            first, _ = rows.setdefault(sample["id"], (place, sample))
            if first != place:
                first = first.removeprefix(f"{file}, ")
                raise LopError(f"{place}: id {sample['id']!r} is that of {first}, too")
    # columns of objects: in a text column, pandas would turn None into nan
    return pd.DataFrame([of for _, of in rows.values()], columns=list(COLUMNS), dtype=object)


def document(sample: Mapping[str, Any]) -> str | None:
    """The text of a text sample; None for a question."""
    text = sample.get("text")
    return text if isinstance(text, str) else None


def label(sample: Mapping[str, Any]) -> str | None:
    """The answer of a question, or None if it is not known."""
    answer = sample["answer"]
    return answer if isinstance(answer, str) else None


def accepted(sample: Mapping[str, Any]) -> list[str]:
    """The accepted answers of a sample; the first is its `answer`. May be empty."""
    answers = sample.get("answers")
    if answers is None or isinstance(answers, float) or not len(answers):
        return [] if label(sample) is None else [sample["answer"]]
    return list(answers)


def check_answered(samples: pd.DataFrame, needs: str, texts: bool = True) -> None:
    """Raise LopError with the first sample that is a question without a known answer.

    `needs` names the purpose in the message. With `texts`, text samples are accepted.
    """
    for row in samples.to_dict("records"):
        text = document(row) is not None
        if text and not texts:
            raise LopError(f"sample {row['id']}: a text, and {needs} needs questions with answers")
        if not text and label(row) is None:
            raise LopError(f"sample {row['id']}: no answer, and {needs} needs one")


def decode_images(sample: Mapping[str, Any]) -> list[Image]:
    """The sample's pictures as upright RGB images; LopError with the sample for a broken one."""
    try:
        return [pictures.decode(image["bytes"]) for image in sample["images"]]
    except LopError as error:
        raise LopError(f"sample {sample.get('id', '')}: {error}") from error


def pixels(sample: Mapping[str, Any]) -> int:
    """Total number of pixels of the sample's pictures, without decoding them."""
    sizes = [pictures.size(image["bytes"]) for image in sample["images"]]
    return sum(width * height for width, height in sizes)


def letters(sample: Mapping[str, Any]) -> int:
    """Number of characters of a text, or of a question with its choices and answer."""
    return len(document(sample) or prompt_text(sample)) + len(label(sample) or "")


def prompt_text(sample: Mapping[str, Any]) -> str:
    """The question, followed by its lettered choices, if any."""
    choices = sample["choices"]
    if choices is None or not len(choices):
        return sample["question"]
    lettered = [f"{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(choices)]
    return "\n".join([sample["question"], *lettered])


def fingerprint(samples: pd.DataFrame) -> str:
    """Twelve hex digits over the whole content of a table of samples, in order."""
    digest = hashlib.sha256()
    for row in samples.to_dict("records"):
        choices = None if row["choices"] is None else list(row["choices"])
        texts = [row[name] for name in ("id", "image_id", "question", "category")]
        images = [hashlib.sha256(image["bytes"]).hexdigest() for image in row["images"]]
        own = [] if (text := document(row)) is None else [text]
        digest.update(json.dumps([*texts, choices, accepted(row), images, *own]).encode())
    return digest.hexdigest()[:12]


def check_apart(samples: pd.DataFrame, others: pd.DataFrame, where: str) -> None:
    """Raise LopError if two tables share a picture or a document; `where` names the second
    table."""
    shared = _seen(samples).keys() & _seen(others).keys()
    if shared:
        first = _seen(samples)[sorted(shared)[0]]
        raise LopError(
            f"sample {first}: its picture or document is in {where} too "
            f"({len(shared)} shared in all); expected none"
        )


def _seen(samples: pd.DataFrame) -> dict[str, str]:
    """A sample for each distinct picture, or for each distinct text, by content."""
    found: dict[str, str] = {}
    for row in samples.to_dict("records"):
        pictures = [hashlib.sha256(image["bytes"]).hexdigest() for image in row["images"]]
        text = document(row)
        found |= dict.fromkeys(pictures or [text or row["image_id"]], row["id"])
    return found


def split_by_image(
    samples: pd.DataFrame, sizes: Mapping[str, int], seed: int
) -> dict[str, pd.DataFrame]:
    """Draw tables of the given sizes that share no picture or document.

    Pictures and documents, by `image_id`, are shuffled and distributed over the tables in
    proportion to their sizes; then each table is drawn from its own. Raises LopError if there are
    too few samples.
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
    """Tables of the given sizes, and a table `rest` with all remaining pictures or documents.

    They are shuffled; each table takes the next ones until it has enough samples. Raises LopError
    if there are too few samples.
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
        raise LopError(f"{rest}: no picture or document is left; the source has {len(images)}")
    return tables | {rest: draw(left, len(left), rng, rest)}


def draw(pool: pd.DataFrame, size: int, rng: np.random.Generator, name: str) -> pd.DataFrame:
    """`size` rows of `pool` in random order; LopError if it has fewer."""
    if len(pool) < size:
        raise LopError(
            f"{name}: wanted {size} samples, its pictures or documents have only {len(pool)}"
        )
    return pool.iloc[rng.permutation(len(pool))[:size]].reset_index(drop=True)
