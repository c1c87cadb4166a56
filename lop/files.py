"""Whole or not at all: everything lop writes is written beside its place, then renamed into it."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from lop.errors import LopError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`; on success it takes the place of `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def clear_leftovers(directory: str | Path) -> None:
    """Remove what a killed process had half written in `directory`; no other may be writing."""
    for path in Path(directory).glob(".*.*"):
        path.unlink()


@contextmanager
def replacing_dir(path: str | Path, like: str) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; on success it takes the place of `path`.

    `like` names a file that every directory of this kind holds: LopError where `path` is something
    else, which a slip of the hand must not cost anybody.
    """
    path = Path(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / like).exists()):
        raise LopError(f"{path}: is there already and holds no {like}; not replacing it")
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    old = tmp.with_name(tmp.name + ".old")
    try:
        yield tmp
        tmp.chmod(0o755)
        if path.exists():
            path.rename(old)
        tmp.rename(path)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def content_digest(path: str | Path, without: Collection[str] = ()) -> str:
    """Sixteen hex digits over a file, or all files of a directory but those named `without`.

    What is hidden, such as a clone's .git, does not count.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    digest = hashlib.sha256()
    for file in files:
        hidden = file != path and any(p.startswith(".") for p in file.relative_to(path).parts)
        if file.name not in without and not hidden:
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            name = "" if file == path else file.relative_to(path).as_posix()
            digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()[:16]
