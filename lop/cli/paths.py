"""Path types of options: inputs must exist, and outputs must be writable."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError


def _file(path: Path) -> Path:
    if not path.is_file():
        raise _refused("a file" if path.exists() else "a file that exists", path)
    return path


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise _refused("a directory" if path.exists() else "a directory that exists", path)
    return path


def _new_file(path: Path) -> Path:
    if path.is_dir():
        raise _refused("a file to write", path, "it is a directory")
    return _writable(path)


def _new_folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise _refused("a directory to write", path, "it is not a directory")
    return _writable(path)


def _writable(path: Path) -> Path:
    """Check that a path can be created, before hours of work instead of after them."""
    parent = next(each for each in path.absolute().parents if os.path.lexists(each))
    if not parent.is_dir():
        raise _refused("a path in a directory", path, f"{parent} is not a directory")
    if not os.access(parent, os.W_OK):
        raise _refused("a path in a writable directory", path, f"{parent} is not writable")
    return path


def _refused(expected: str, path: Path, reason: str = "") -> PydanticCustomError:
    text = f"expected {expected}, got {path}" + (f", but {reason}" if reason else "")
    return PydanticCustomError("path", "{text}", {"text": text})


def _named(path: object) -> object:
    """Reject empty text, such as an unset shell variable: it would mean the working directory."""
    if path == "":
        raise PydanticCustomError("path", "expected a path, got an empty text")
    return path


def _kit(uri: str) -> str:
    """Check a kit's directory. A registry URI is resolved later, by the command."""
    if not uri.startswith("models:/"):
        _folder(Path(_named(uri)))  # type: ignore[arg-type]
    return uri


KitPlace = Annotated[str, AfterValidator(_kit)]
Named = Annotated[Path, BeforeValidator(_named)]
File = Annotated[Named, AfterValidator(_file)]
Folder = Annotated[Named, AfterValidator(_folder)]
NewFile = Annotated[Named, AfterValidator(_new_file)]
NewFolder = Annotated[Named, AfterValidator(_new_folder)]
