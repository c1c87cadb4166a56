"""Reads and checks small JSON files against a type."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from lop.errors import LopError

T = TypeVar("T")


@cache  # milliseconds each
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def as_typed(kind: type[T], value: object, what: str) -> T:
    """A value, or JSON text, as `kind`; LopError names the field that is wrong."""
    try:
        adapter = _adapter(kind)  # type: ignore[arg-type]
        if isinstance(value, str):
            return adapter.validate_json(value)
        return adapter.validate_python(value)
    except ValidationError as error:
        raise LopError(f"{what}: {_first(error)}") from error
    except LopError as error:
        raise LopError(f"{what}: {error}") from error


def read_typed(kind: type[T], path: Path) -> T:
    """The content of a JSON file, strictly as `kind`; LopError names the file and the field."""
    adapter: TypeAdapter[Any] = _adapter(kind)  # type: ignore[arg-type]
    try:
        return adapter.validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise LopError(f"{path}: cannot read it: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise LopError(f"{path}: cannot read JSON: {first['ctx']['error']}") from error
        raise LopError(f"{path}: {_first(error)}") from error
    except LopError as error:
        raise LopError(f"{path}: {error}") from error


def _first(error: ValidationError) -> str:
    """The field and what is wrong with it."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field + ': ' if field else ''}{first['msg']}"
