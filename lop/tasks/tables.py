"""Reads published benchmark data, from disk or from the hub, for lm-eval's tasks.

Local tables come from memory, not through the `datasets` cache: nothing is left on disk, and a
changed file is never answered with an old copy. Pictures stay bytes and are decoded once each,
however many questions are asked about them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Image, concatenate_datasets, load_dataset
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from lop.errors import LopError
from lop.tasks.benchmarks import benchmark, hub_id


def read_table(
    source: str | Path, columns: Sequence[str], split: str, config: str | None = None
) -> Dataset:
    """The rows of a benchmark that lies at `source`, with image columns as {"bytes", "path"}.

    `source` is a Parquet file, a folder (a clone of the hub's, whose files are `<config>/<split>-*`
    or `data/<split>-*`, or any folder of Parquet files), or the hub's id, as in `lmms-lab/POPE`.
    Raises LopError when it cannot be read or lacks one of `columns`.
    """
    if Path(source).exists():
        table = _read_local(Path(source), split, config)
    elif isinstance(source, Path) or not hub_id(source):
        raise LopError(f"{source}: no such file or folder of benchmark data")
    else:
        table = _read_hub(source, split, config)
    if missing := [name for name in columns if name not in table.column_names]:
        raise LopError(
            f"{source}: no column {missing[0]!r}; expected {', '.join(columns)}, "
            f"found {', '.join(table.column_names)}"
        )
    if not len(table):
        raise LopError(f"{source}: no rows")
    return table


def place(task: str, metadata: Mapping[str, Any]) -> str:
    """Where the data of a task lie: as lm-eval's metadata say, else on the hub; or LopError."""
    source = metadata.get(task) or benchmark(task).hub
    if not source:
        raise LopError(f'{task}: no data; give metadata, {{"{task}": "<file>"}}')
    return source


def loader(task: str, columns: Sequence[str], split: str) -> Callable[..., dict[str, Dataset]]:
    """An lm-eval `custom_dataset`: a split of the task's data, as the split `test`."""

    def load(**metadata: Any) -> dict[str, Dataset]:
        return {"test": read_table(place(task, metadata), columns, split)}

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
def decode(picture: bytes) -> Pillow.Image:
    """A picture in RGB; the same object for the same bytes. LopError when it cannot be read."""
    try:
        return Pillow.open(io.BytesIO(picture)).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise LopError(f"not an image that can be read: {error}") from error


def picture(doc: dict[str, Any], column: str = "image") -> Pillow.Image:
    """The picture in a column of a row, decoded."""
    value = doc[column]
    if not isinstance(value, dict) or not value.get("bytes"):
        raise LopError(f"a row's {column} holds no picture: expected its bytes")
    return decode(value["bytes"])


def doc_to_text(doc: dict[str, Any]) -> str:
    """The one picture, then the question as published."""
    return "<image>" + doc["question"].strip()


def doc_to_image(doc: dict[str, Any]) -> list[Pillow.Image]:
    """The picture, in RGB."""
    return [picture(doc)]


def _read_local(source: Path, split: str, config: str | None) -> Dataset:
    try:
        tables = [pq.read_table(path) for path in files_of(source, split, config)]
        # without the schema's metadata: it would have `datasets` decode pictures at every access
        table = pa.concat_tables(tables, promote_options="default").replace_schema_metadata()
    except (OSError, pa.ArrowException) as error:
        raise LopError(f"{source}: cannot read Parquet: {error}") from error
    return Dataset(table)


def _read_hub(name: str, split: str, config: str | None) -> Dataset:
    try:
        table = load_dataset(name, config, split=split)
    except Exception as error:  # the hub's client raises what its transport raises
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise LopError(f"{name}: no such file or folder, and not on the hub: {reason}") from error
    for column, feature in table.features.items():
        if isinstance(feature, Image):
            table = table.cast_column(column, Image(decode=False))
    return table


def joined(tables: Sequence[Dataset]) -> Dataset:
    """Tables of the same columns, one below the other."""
    return concatenate_datasets(list(tables))
