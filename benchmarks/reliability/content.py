"""Ways to break the content of tables, weights and pictures; see `files`."""

from __future__ import annotations

import io
import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.reliability.files import Told, Way

# Columns without which a table says nothing, by what tells its kind.
NEEDED = {
    "images": {"images", "question", "answer"},  # samples
    "kept": {"layer", "kept", "reward", "target", "plan"},  # profiles and search samples
    "prompt_hash": {"id", "correct", "prediction"},  # answers
    "image": {"image", "question", "answer"},  # benchmarks
    "options": {"options", "question", "answer", "image_1"},
}


def needed(table: pd.DataFrame) -> set[str]:
    """The columns that must be right in a table of this kind."""
    return next((names for mark, names in NEEDED.items() if mark in table), set()) & set(table)


def a_column(path: Path, rng: Random) -> Told:
    table = pd.read_parquet(path)
    column = rng.choice(list(table.columns))
    refuse = column in needed(table)
    if rng.random() < 0.5:
        table = table.drop(columns=column)
    else:
        table = table.rename(columns={column: f"{column}_"})
    table.to_parquet(path, index=False)
    return Told(f"no column {column}", refuse)


def a_cell(path: Path, rng: Random) -> Told:
    table = pd.read_parquet(path)
    column, row = rng.choice(list(table.columns)), rng.randrange(len(table))
    first = table[column].iloc[0]
    value, refuse = _bad_cell(first, rng)
    cells = list(table[column])
    cells[row] = value
    table[column] = pd.Series(cells, dtype=table[column].dtype if _is_float(first) else object)
    table.to_parquet(path, index=False)
    said = f"{column} of row {row} becomes {value!r:.40}"
    return Told(said, refuse and column in needed(table))


def a_type(path: Path, rng: Random) -> Told:
    table = pd.read_parquet(path)
    column = rng.choice(sorted(needed(table)))
    casts: list[tuple[str, Callable[[Any], Any]]] = [
        ("lists", lambda v: [str(v)]),
        ("dicts", lambda v: {"value": str(v)}),
        ("bytes", lambda v: str(v).encode()),
        ("nulls", lambda v: None),
        ("NaN", lambda v: math.nan),
        ("text", lambda v: "text"),
    ]
    name, cast = rng.choice(casts)
    if name == "text" and isinstance(table[column].iloc[0], str):
        name, cast = casts[3]
    table[column] = [cast(value) for value in table[column]]
    table.to_parquet(path, index=False)
    # lists of answers are meant: any of them counts; so are bytes that are text
    return Told(
        f"all of {column} as {name}", (name, column) != ("lists", "answer") and name != "bytes"
    )


def the_rows(path: Path, rng: Random) -> Told:
    table = pd.read_parquet(path)
    name = rng.choice(["none", "one", "doubled", "shuffled"])
    kept = {
        "none": table[:0],
        "one": table[:1],
        "doubled": pd.concat([table, table]),
        "shuffled": table.sample(frac=1, random_state=rng.randrange(2**32)),
    }[name]
    kept.to_parquet(path, index=False)
    return Told(f"rows: {name}", name == "none")


def a_picture_cell(path: Path, rng: Random) -> Told:
    table = pd.read_parquet(path)
    columns = [name for name in ("images", "image", "image_1") if name in table]
    if not columns:
        return a_cell(path, rng)
    column, row = columns[0], rng.randrange(len(table))
    blob = _blob(table[column].iloc[row])
    what, broken, refuse = _broken_picture(blob, rng)
    cell = {"bytes": broken, "path": None}
    cells = list(table[column])
    cells[row] = [cell] if column == "images" else cell
    table[column] = cells
    table.to_parquet(path, index=False)
    return Told(f"{column} of row {row}: {what}", refuse)


TABLE: list[Way] = [a_column, a_cell, a_cell, a_cell, a_type, a_type, the_rows, a_picture_cell]


def a_tensor(path: Path, rng: Random) -> Told:
    tensors, metadata = load_file(path), _metadata(path)
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    way = rng.choice(
        ["nan", "one inf", "left out", "renamed", "longer", "empty", "int64", "float16"]
    )
    if way == "nan":
        tensors[name] = torch.full_like(tensor, math.nan)
    elif way == "one inf":
        tensor.view(-1)[rng.randrange(tensor.numel())] = math.inf
    elif way in ("left out", "renamed"):
        del tensors[name]
        if way == "renamed":
            tensors[f"{name}_"] = tensor
    elif way == "longer":
        tensors[name] = torch.cat([tensor, tensor[:1]])
    elif way == "empty":
        tensors[name] = tensor[:0].clone()
    else:
        tensors[name] = tensor.to(torch.int64 if way == "int64" else torch.float16)
    save_file(tensors, path, metadata)
    # one weight of many may never be used; what a header shows must be seen
    infinite = way == "one inf" and "model" in path.parts
    return Told(f"{name}: {way}", way not in ("float16", "int64") and not infinite)


def a_header(path: Path, rng: Random) -> Told:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = rng.choice(sorted(set(header) - {"__metadata__"}))
    ways: list[tuple[str, Any]] = [
        ("dtype", "F7"), ("dtype", None), ("shape", [10**9, 10**9]), ("shape", [-1]),
        ("shape", "x"), ("data_offsets", [0, 10**12]), ("data_offsets", [8, 0]),
        ("data_offsets", None), ("length", 2**62), ("length", 3), ("__metadata__", "x"),
    ]  # fmt: skip
    way, value = rng.choice(ways)
    if way == "length":
        path.write_bytes(value.to_bytes(8, "little") + content[8:])
        return Told(f"a header of {value} bytes", True)
    if way == "__metadata__":
        header[way] = value
    else:
        header[name][way] = value
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return Told(f"{name}: {way} {value!r}", way != "__metadata__")


def for_another_model(path: Path, rng: Random) -> Told:
    tensors, metadata = load_file(path), _metadata(path)
    if "model_fingerprint" not in (metadata or {}):
        return a_tensor(path, rng)
    save_file(tensors, path, {"model_fingerprint": "0123456789abcdef"})
    return Told("of another model", True)


WEIGHTS: list[Way] = [*[a_tensor] * 4, *[a_header] * 3, for_another_model]


def a_broken_picture(path: Path, rng: Random) -> Told:
    what, broken, refuse = _broken_picture(path.read_bytes(), rng)
    path.write_bytes(broken)
    return Told(what, refuse)


PICTURE: list[Way] = [a_broken_picture] * 6


def _broken_picture(blob: bytes, rng: Random) -> tuple[str, bytes, bool]:
    """What was done, the bytes, and whether no picture can be seen in them."""
    way = rng.choice(
        [
            "empty",
            "cut",
            "cut",
            "text",
            "vast",
            "thin",
            "one pixel",
            "CMYK",
            "16 bit",
            "see-through",
        ]
    )
    if way == "empty":
        return way, b"", True
    if way == "text":
        return way, b"<svg xmlns='http://www.w3.org/2000/svg'/>", True
    if way == "cut":
        return way, blob[: rng.randrange(40, int(0.9 * len(blob)))], True
    if way == "vast":
        return "30,000 pixels square by its header", _png_header(30_000), True
    if way == "thin":
        return way, _encoded(Image.new("RGB", (1, 3000))), False
    if way == "one pixel":
        return way, _encoded(Image.new("RGB", (1, 1))), False
    if way == "CMYK":
        return way, _encoded(Image.new("CMYK", (64, 64)), "JPEG"), False
    if way == "16 bit":
        return way, _encoded(Image.fromarray(np.full((64, 64), 40_000, dtype=np.uint16))), False
    return way, _encoded(Image.new("RGBA", (64, 64))), False


def _encoded(picture: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


def _png_header(side: int) -> bytes:
    """A PNG that is all header."""
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    end = b"IEND"
    parts = [
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, end)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _bad_cell(like: Any, rng: Random) -> tuple[Any, bool]:
    """A value for a cell of a column whose values are `like` this, and whether it is nonsense."""
    if isinstance(like, str):
        long, special = "why? " * 20_000, "<|image_pad|><|im_end|>"
        return rng.choice(
            [(None, True), ("", True), (long, False), (special, False), ("é\u0301", False)]
        )
    if _is_float(like):
        return rng.choice([(math.nan, True), (math.inf, True), (-math.inf, True), (1e300, False)])
    if isinstance(like, int | np.integer):
        return rng.choice([(None, True), (-1, True), (10**15, False)])
    if isinstance(like, np.ndarray) and len(like) and not isinstance(like[0], dict):
        changed = list(like)
        changed[rng.randrange(len(changed))] = rng.choice([-1, 10**6])
        return rng.choice([(None, True), (changed, True), (list(like)[:-1], True)])
    return None, not isinstance(like, bool | np.bool_ | None)


def _is_float(value: Any) -> bool:
    return isinstance(value, float | np.floating)


def _blob(cell: Any) -> bytes:
    return (cell if isinstance(cell, dict) else cell[0])["bytes"]


def _metadata(path: Path) -> dict[str, str] | None:
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__")
