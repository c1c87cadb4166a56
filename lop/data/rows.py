"""Reads a user's table row by row, and checks each cell against the type of its column.

A cell of another type is an error with file, row and column; missing values are not guessed. Rows
count from 0, as do ids in a table without ids; lines of a file count from 1.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lop.data import pictures
from lop.errors import LopError, first_line

INPUTS = (
    "id", "image_id", "image", "images", "question", "choices", "answer", "answers", "category",
    "text",
)  # fmt: skip
MAX_CHOICES = 26  # they are lettered
LARGEST_CELL = 2**31 - 1  # of a CSV file, in characters; a picture may be there as base64


def find_tables(path: Path) -> list[Path]:
    """The .parquet, .csv, .jsonl or .txt file at `path`; for a folder, its only table or, without a
    table, its .txt files sorted by name. LopError if there is none of these."""
    if path.is_dir():
        found = sorted(f for f in path.iterdir() if f.suffix in _READERS)
        tables = [f for f in found if f.suffix != TEXT_FILE]
        if len(tables) > 1 or not found:
            raise LopError(
                f"{path}: expected one .parquet, .csv or .jsonl file, or .txt files, found "
                f"{len(tables)}"
            )
        return tables or found
    if not path.is_file() or path.suffix not in _READERS:
        raise LopError(
            f"{path}: expected a folder, or a .parquet, .csv, .jsonl or .txt file of samples"
        )
    return [path]


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a .parquet, .csv or .jsonl file as plain Python values; a .txt file is one row.

    Only the columns of `INPUTS` are read. Raises LopError with the file (and the line, if known) if
    it cannot be read, has no rows, or has neither questions nor texts.
    """
    try:
        rows = _READERS[file.suffix](file)
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        raise LopError(f"{file}: cannot read samples: {first_line(error)}") from error
    if not rows:
        raise LopError(f"{file}: expected rows with a question or a text; no rows")
    if not {"question", "text"} & {name for row in rows for name in row}:
        raise LopError(f"{file}: expected rows with a question or a text; no such column")
    return rows


def sample_of(row: Mapping[str, Any], number: int, folder: Path) -> dict[str, Any]:
    """A row as a sample with the columns of `lop.data.samples.COLUMNS`; see `read_samples`.

    Paths of pictures are relative to `folder`. Raises LopError for an invalid cell.
    """
    question = text(row.get("question"), "question", written=False)
    document = None if question else text(row.get("text"), "text", written=False)
    if not (question or document):
        raise LopError("question and text must not both be empty")
    answers = _answers(row)
    blobs = [_picture(cell, folder) for cell in _cells(row)]
    choices = texts(_split(row.get("choices")), "choices")
    if len(choices) > MAX_CHOICES:
        raise LopError(f"{len(choices)} choices: expected at most {MAX_CHOICES}")
    if document and (answers or blobs or choices):
        raise LopError("a text without a question: expected no picture, choices or answer with it")
    # the content that samples may share: pictures, a document, or the text of a question
    shared = b"".join(blobs) or (document or question or "").encode()
    content = hashlib.sha256(shared).hexdigest()[:16]
    return {
        "id": text(row.get("id"), "id") or str(number),
        "image_id": text(row.get("image_id"), "image_id") or content,
        "images": [{"bytes": blob, "path": None} for blob in blobs],
        "question": question or "",
        "choices": choices or None,
        "answer": answers[0] if answers else None,
        "category": text(row.get("category"), "category") or "all",
        "answers": answers,
        "text": document,
    }


def _answers(row: Mapping[str, Any]) -> list[str]:
    """A row's accepted answers, without duplicates; may be empty."""
    given = [texts(row[name], name) for name in ("answer", "answers") if name in row]
    if any(given) and not all(given):  # a row must fill both columns or neither
        raise LopError("answer and answers: expected both or none of them to be empty")
    return list(dict.fromkeys(one for each in given for one in each))


def _parquet(file: Path) -> list[dict[str, Any]]:
    with pq.ParquetFile(file) as table:
        names = [name for name in INPUTS if name in table.schema_arrow.names]
        # not with pandas, which turns integers into floats in a column with nulls, and nulls into
        # nan
        return table.read(names).to_pylist()


def _utf8(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: not UTF-8: {error.reason}") from error


def _csv(file: Path) -> list[dict[str, Any]]:
    csv.field_size_limit(LARGEST_CELL)
    table = csv.DictReader(io.StringIO(_utf8(file), newline=""), strict=True)
    try:
        return [_complete(row, table) for row in table]
    except csv.Error as error:
        raise ValueError(f"line {table.reader.line_num}: {error}") from error


def _complete(row: dict[Any, Any], table: csv.DictReader[str]) -> dict[str, Any]:
    if None in row or None in row.values():
        wanted = len(table.fieldnames or ())
        raise ValueError(f"line {table.line_num}: expected {wanted} cells, as in the header")
    return {name: cell or None for name, cell in row.items() if name in INPUTS}


def _jsonl(file: Path) -> list[dict[str, Any]]:
    lines = enumerate(_utf8(file).split("\n"), 1)
    return [_object(line, number) for number, line in lines if line.strip()]


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number}: not JSON: {getattr(error, 'msg', error)}") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number}: expected an object, {{…}}")
    return {name: cell for name, cell in row.items() if name in INPUTS}


def _txt(file: Path) -> list[dict[str, Any]]:
    return [{"id": file.name, "text": _utf8(file)}]


TEXT_FILE = ".txt"
_READERS: Mapping[str, Callable[[Path], list[dict[str, Any]]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".jsonl": _jsonl,
    TEXT_FILE: _txt,
}


def _missing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def text(cell: Any, column: str, written: bool = True) -> str | None:
    """A cell of text, or None if it is missing or blank; with `written`, numbers are accepted as
    text."""
    if _missing(cell):
        return None
    if written and isinstance(cell, int | float) and not isinstance(cell, bool):
        if not math.isfinite(cell):
            raise LopError(f"{column} {cell}: expected text or a number")
        return str(int(cell) if cell == int(cell) else cell)
    if not isinstance(cell, str):
        raise LopError(f"{column} {shown(cell)}: expected {'text or a number' * written or 'text'}")
    if any("\ud800" <= letter <= "\udfff" for letter in cell):
        raise LopError(f"{column} {shown(cell)}: half of a surrogate pair, which is no text")
    return cell if cell.strip() else None


def texts(cell: Any, column: str) -> list[str]:
    """The texts of a cell with one text or a list of texts; empty if it is missing."""
    cells = cell if isinstance(cell, list) else [cell] if not _missing(cell) else []
    found = [text(each, column) for each in cells]
    if isinstance(cell, list) and None in found:
        raise LopError(f"{column} {shown(cell)}: one of them is empty")
    return [each for each in found if each is not None]


def _split(cell: Any) -> Any:
    """Several texts in one cell (`a|b|c`), as a list."""
    return [part.strip() for part in cell.split("|")] if isinstance(cell, str) and cell else cell


def _cells(row: Mapping[str, Any]) -> Iterator[Any]:
    """The cells that hold a row's pictures, in order."""
    images = _split(row.get("images"))
    if _missing(images):
        images = [row.get("image")]
    for cell in images if isinstance(images, list) else [images]:
        if not _missing(cell) and cell != "":
            yield cell


def _picture(cell: Any, folder: Path) -> bytes:
    """The bytes of a picture given as bytes, as {"bytes"} or {"path"}, as a path, or as base64
    text; LopError if it cannot be decoded."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    data = _from_text(cell, folder) if isinstance(cell, str) else cell
    if not isinstance(data, bytes):
        raise LopError(f"image {shown(cell)}: expected bytes, a path, or base64 text")
    pictures.check(data)
    return data


def _from_text(written: str, folder: Path) -> bytes:
    if (data := pictures.from_text(written)) is not None:
        return data
    target = folder / written
    try:
        if target.is_file():
            return target.read_bytes()
    except OSError as error:  # not a valid file name, or no permission
        raise LopError(f"image {shown(written)}: {error.strerror}") from error
    raise LopError(f"no image file {shown(written)} in {folder}, nor base64 of a picture")


def shown(cell: Any) -> str:
    """A cell, short enough for a message of one line."""
    said = cell if isinstance(cell, str) and cell.isprintable() else ascii(cell)
    return said if len(said) <= 80 else f"{said[:80]}…"
