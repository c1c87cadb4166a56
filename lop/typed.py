"""Small JSON files from outside, read as what a type says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from lop.errors import LopError

T = TypeVar("T")


def read_typed(kind: type[T], path: Path) -> T:
    """What a JSON file says, strictly as `kind`; LopError names the file and the field."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        return adapter.validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise LopError(f"{path}: cannot read it: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise LopError(f"{path}: cannot read JSON: {first['ctx']['error']}") from error
        field = ".".join(str(part) for part in first["loc"])
        raise LopError(f"{path}: {field + ': ' if field else ''}{first['msg']}") from error
