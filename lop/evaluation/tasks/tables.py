"""Reads published benchmark data, from disk or from the hub, for lm-eval's tasks.

Local tables come from memory, not through the `datasets` cache: no copies stay on disk, and a
changed file is never read from an old copy. Every row is checked as it is read; a row that cannot
be used is an error with file and row. Pictures stay bytes, and each is decoded once for all of its
questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Image, concatenate_datasets, load_dataset
from PIL.Image import Image as Picture

from lop.data import pictures
from lop.data.rows import shown, text
from lop.errors import LopError, first_line
from lop.evaluation.tasks.benchmarks import benchmark, hub_id

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
Row = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """The columns of a benchmark: text columns, which `clean` takes and returns, and pictures.

    `clean` gets a row's texts as in the file, with True or False for each picture; it returns a
    value for each text column. It raises LopError for a row that cannot be used. Every row must
    have all pictures, unless `some`.
    """

    texts: tuple[str, ...]
    images: tuple[str, ...]
    clean: Callable[[Row], Row]
    some: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """All required columns."""
        return self.texts + self.images


def read_table(source: str | Path, form: Form, split: str, config: str | None = None) -> Dataset:
    """The rows of the benchmark at `source`, with image columns as {"bytes", "path"}.

    `source` is a Parquet file, a folder (a clone of the hub's, whose files are `<config>/<split>-*`
    or `data/<split>-*`, or any folder of Parquet files), or the hub's id, as in `lmms-lab/POPE`.
    Raises LopError if it cannot be read, lacks a column, or has an invalid row.
    """
    if Path(source).exists():
        files = files_of(Path(source), split, config)
        parts = [_checked(path, _read_local(path), form) for path in files]
    elif isinstance(source, Path) or not hub_id(source):
        raise LopError(f"{source}: no such file or folder of benchmark data")
    else:
        parts = [_checked(source, _read_hub(source, split, config), form)]
    try:
        table = pa.concat_tables(parts, promote_options="default")
    except pa.ArrowException as error:
        raise LopError(
            f"{source}: its files have different column types: {first_line(error)}"
        ) from error
    if not len(table):
        raise LopError(f"{source}: no rows")
    return Dataset(table)


def _checked(source: str | Path, table: pa.Table, form: Form) -> pa.Table:
    """The form's columns of a table, cleaned; LopError with `source` and the row."""
    if missing := [name for name in form.columns if name not in table.column_names]:
        raise LopError(
            f"{source}: no column {missing[0]!r}; expected {', '.join(form.columns)}, "
            f"found {', '.join(table.column_names)}"
        )
    images = {name: _pictures(source, table, name) for name in form.images}
    rows = []
    for i, row in enumerate(table.select(form.texts).to_pylist()):
        there = {name: column[i].is_valid for name, column in images.items()}
        try:
            if not form.some and not all(there.values()):
                raise LopError("no picture: expected its bytes")
            rows.append(form.clean(row | there))
        except LopError as error:
            raise LopError(f"{source}, row {i}: {error}") from error
    texts = {name: pa.array([row[name] for row in rows]) for name in form.texts}
    return pa.table(texts | images)


def _pictures(source: str | Path, table: pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    """A column of pictures as {"bytes", "path"} or null; each distinct one is decoded to check."""
    known: set[int] = set()
    found = []
    for i, cell in enumerate(table[name]):  # one at a time: together they may be gigabytes
        try:
            data = _bytes(cell.as_py(), name)
            if data is not None and (key := hash(data)) not in known:
                pictures.check(data)
                known.add(key)
        except LopError as error:
            raise LopError(f"{source}, row {i}: {error}") from error
        if not pa.types.is_struct(cell.type):
            found.append(data and {"bytes": data, "path": None})
    return pa.array(found, _IMAGE) if found else table[name]


def _bytes(cell: Any, column: str) -> bytes | None:
    """The bytes of a picture in a cell, or None where there is none."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(data, str):
        data = pictures.from_text(data)
    if cell is not None and not isinstance(data, bytes):
        raise LopError(f"{column} {shown(cell)} holds no picture: expected its bytes")
    return data


def needed(row: Mapping[str, Any], column: str) -> str:
    """A cell of text that must not be empty, or LopError; numbers are taken as text."""
    if (found := text(row[column], column)) is None:
        raise LopError(f"{column} is empty")
    return found


def gold(row: Mapping[str, Any], column: str = "answer") -> Any:
    """The right answer as in the file; LopError if the split hides it."""
    answer = row[column]
    if answer in (None, "", "?") or answer != answer:
        raise LopError(
            f"{column} {answer!r}: no right answer; a split without answers has no score"
        )
    return answer


def one_of(row: Mapping[str, Any], column: str, known: Sequence[str]) -> str:
    """A cell that holds one of the names in `known`, or LopError."""
    if (found := needed(row, column)) not in known:
        raise LopError(f"{column} {found!r}: expected one of {', '.join(known)}")
    return found


def yes_no(row: Mapping[str, Any]) -> str:
    """`yes` or `no`, the right answer whatever its case, or LopError."""
    answer = str(gold(row)).strip().lower()
    if answer not in ("yes", "no"):
        raise LopError(f"answer {row['answer']!r}, expected Yes or No")
    return answer


def place(task: str, metadata: Mapping[str, Any]) -> str:
    """The source of a task's data: from lm-eval's metadata, else the hub; LopError if there is
    none."""
    source = metadata.get(task) or benchmark(task).hub
    if not source:
        raise LopError(f'{task}: no data; give metadata, {{"{task}": "<file>"}}')
    return source


def loader(task: str, form: Form, split: str) -> Callable[..., dict[str, Dataset]]:
    """An lm-eval `custom_dataset`: a split of the task's data, as the split `test`."""

    def load(**metadata: Any) -> dict[str, Dataset]:
        return {"test": read_table(place(task, metadata), form, split)}

    return load


def files_of(source: Path, split: str, config: str | None = None) -> list[Path]:
    """The Parquet files that hold a split; LopError when there are none."""
    if source.is_file():
        return [source]
    places = [source / config] if config and (source / config).is_dir() else []
    for place in [*places, source / "data", source]:
        for pattern in (f"{split}-*.parquet", f"{split}.parquet", "*.parquet"):
            if found := sorted(place.glob(pattern)):
                return found
    raise LopError(f"{source}: no Parquet files of split {split!r} in it")


@lru_cache(maxsize=4096)
def decode(picture: bytes) -> Picture:
    """A picture in RGB; the same object for the same bytes. LopError when it cannot be read."""
    return pictures.decode(picture)


def picture(doc: Mapping[str, Any], column: str = "image") -> Picture:
    """The picture in a column of a row, decoded."""
    return decode(doc[column]["bytes"])


def seen(doc: Mapping[str, Any], columns: Sequence[str] = ("image",)) -> str:
    """Twelve hex digits that name a row's pictures by their content."""
    digest = hashlib.sha256()
    for column in columns:
        if doc[column] is not None:
            digest.update(hashlib.sha256(doc[column]["bytes"]).digest())
    return digest.hexdigest()[:12]


def plain(text: str) -> str:
    """A question's text without picture placeholders for lm-eval: `<image>` in it is text."""
    return text.replace("<image>", "< image >")


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The one picture, then the question as published."""
    return "<image>" + plain(doc["question"].strip())


def doc_to_image(doc: Mapping[str, Any]) -> list[Picture]:
    """The picture, in RGB."""
    return [picture(doc)]


def joined(tables: Sequence[Dataset]) -> Dataset:
    """Tables of the same columns, one below the other."""
    return concatenate_datasets(list(tables))


def _read_local(path: Path) -> pa.Table:
    try:
        # without the schema's metadata, with which `datasets` would decode pictures at every access
        return pq.read_table(path, partitioning=None).replace_schema_metadata()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise LopError(f"{path}: cannot read Parquet: {first_line(error)}") from error


def _read_hub(name: str, split: str, config: str | None) -> pa.Table:
    try:
        table = load_dataset(name, config, split=split)
    except Exception as error:  # the hub's client may raise any transport error
        raise LopError(
            f"{name}: no such file or folder, and not on the hub: {first_line(error)}"
        ) from error
    for column, feature in table.features.items():
        if isinstance(feature, Image):
            table = table.cast_column(column, Image(decode=False))
    return table.data.table.replace_schema_metadata()
