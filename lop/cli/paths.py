"""Paths on the command line: what must be there to be read, and where one can write."""

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
        raise _refused("a file to write", path, "is a directory")
    return _writable(path)


def _new_folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise _refused("a directory to write", path, "is no directory")
    return _writable(path)


def _writable(path: Path) -> Path:
    """A path where one can write; told before hours of work, not after."""
    above = next(each for each in path.absolute().parents if os.path.lexists(each))
    if not above.is_dir():
        raise _refused("a place in a directory", path, f"{above} is no directory")
    if not os.access(above, os.W_OK):
        raise _refused("a place that can be written to", path, f"{above} cannot")
    return path


def _refused(expected: str, path: Path, why: str = "") -> PydanticCustomError:
    text = f"expected {expected}, got {path}" + (f", and {why}" if why else "")
    return PydanticCustomError("path", "{text}", {"text": text})


def _named(path: object) -> object:
    """An empty text, as of a variable that is not set, would be the folder that one is in."""
    if path == "":
        raise PydanticCustomError("path", "expected a path, got an empty text")
    return path


def _kit(place: str) -> str:
    """A folder, or the name of a registered version, which MLflow is asked for later."""
    if not place.startswith("models:/"):
        _folder(Path(_named(place)))  # type: ignore[arg-type]
    return place


KitPlace = Annotated[str, AfterValidator(_kit)]
Named = Annotated[Path, BeforeValidator(_named)]
File = Annotated[Named, AfterValidator(_file)]
Folder = Annotated[Named, AfterValidator(_folder)]
NewFile = Annotated[Named, AfterValidator(_new_file)]
NewFolder = Annotated[Named, AfterValidator(_new_folder)]
