"""Atomic writes: a file or directory gets a temporary name first, and its own name when complete.

Only files and directories that lop made are replaced or deleted: those with one of lop's temporary
names, and directories of the same kind as the new one.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lop.errors import LopError, at, first_line

OWNER = re.compile(r"[0-9a-f]{8}-\d+-\d+")  # what `owner` gives
# tmp: being written; old: being replaced, where the system cannot exchange two names
_TEMPORARY = re.compile(
    rf"\.lop-(?P<what>tmp|old)-(?P<owner>{OWNER.pattern})-[0-9a-f]{{8}}-(?P<name>.*)", re.DOTALL
)
ABANDONED = 24 * 3600.0  # seconds after which another machine's temporary files count as abandoned


@dataclass(frozen=True)
class Kind:
    """How to recognise a directory that lop writes, so that lop replaces no other directory."""

    name: str  # "a predictor"
    files: tuple[str, ...]  # required files
    keys: frozenset[str] = frozenset()  # required keys of the JSON object in the first file
    folders: tuple[str, ...] = ()  # allowed subdirectories
    each: Kind | None = None  # the kind of every other subdirectory

    def flaw(self, path: Path) -> str | None:
        """Why the directory `path` is not of this kind; None if it is."""
        for file in self.files:
            if not (path / file).is_file():
                return f"holds no {file}"
        if self.keys and not has_keys(path / self.files[0], self.keys):
            return f"has a {self.files[0]} without {', '.join(sorted(self.keys))}"
        return self._foreign(path)

    def _foreign(self, path: Path) -> str | None:
        for entry in path.iterdir():
            ours = entry.name in self.folders or _TEMPORARY.fullmatch(entry.name)
            if ours or not entry.is_dir():
                continue
            if self.each is None:
                return f"holds a folder {entry.name}"
            if flaw := self.each.flaw(entry):
                return f"has a folder {entry.name} that is not {self.each.name}: it {flaw}"
        return None


def read_json(path: Path) -> Any:
    """Parse a JSON file, or raise LopError naming it."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise LopError(f"{path}: cannot read JSON: {first_line(error)}") from error


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """Turn errors about a Parquet file in the block into a LopError with the file and `what`."""
    import pyarrow as pa  # slow to import

    try:
        yield
    except (OSError, ValueError, pa.ArrowException, LopError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise LopError(f"{path}: cannot read {what}: {reason}") from error


def has_keys(path: Path, keys: Collection[str]) -> bool:
    """Whether a file is a JSON object with these keys."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(found, dict) and set(keys) <= set(found)


def check_file(path: str | Path, inputs: Iterable[str | Path | None] = ()) -> None:
    """Raise LopError unless a command that reads `inputs` may write the file `path`.

    It may be absent or an ordinary file: no link, directory or device.
    """
    _check_path(Path(path), stat.S_ISREG, "an ordinary file", inputs)


def check_dir(path: str | Path, kind: Kind, inputs: Iterable[str | Path | None] = ()) -> None:
    """Raise LopError unless a command that reads `inputs` may replace the directory `path`.

    It may be absent, empty or of this `kind`: no link, no file, nothing of another kind.
    """
    path = Path(path)
    _check_path(path, stat.S_ISDIR, "a directory", inputs)
    if path.exists() and any(path.iterdir()) and (flaw := kind.flaw(path)):
        raise LopError(
            f"{path}: already exists and is not {kind.name}: it {flaw}; not replacing it"
        )


def check_own(path: Path, marks: Callable[[str], object], what: str) -> None:
    """Raise LopError unless a command that adds to the directory `path` may do so.

    It may be absent, or contain only temporary files, or a file whose name `marks` accepts as
    lop's.
    """
    if not path.is_dir():
        return
    names = [entry.name for entry in path.iterdir() if not _TEMPORARY.fullmatch(entry.name)]
    if names and not any(marks(name) for name in names):
        raise LopError(f"{path}: already exists and holds no {what}; give another directory")


def _check_path(
    path: Path, right: Callable[[int], bool], what: str, inputs: Iterable[str | Path | None]
) -> None:
    if path.is_symlink():
        raise LopError(f"{path}: is a link to {os.readlink(path)}: give the target's own path")
    if path.exists() and not right(path.stat().st_mode):
        raise LopError(f"{path}: already exists and is not {what}; not replacing it")
    out = Path(os.path.realpath(path))
    for given in inputs:
        if given is None or not os.path.exists(given):  # a name in the hub or in a registry
            continue
        source = Path(os.path.realpath(given))
        if out == source or (path.exists() and os.path.samefile(path, given)):
            raise LopError(f"{path}: is an input of this command; not replacing it")
        if out in source.parents:
            raise LopError(f"{path}: holds {given}, an input of this command; not replacing it")
        if source in out.parents:
            raise LopError(f"{path}: is inside {given}, an input of this command; write elsewhere")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file in the same directory; on success it replaces `path`.

    Raises LopError if `path` is a link, a directory or a device, and OSError if the disk is full or
    the directory is not writable. After an error nothing is left.
    """
    path = Path(path)
    check_file(path)
    tmp = _beside(path, "tmp", path.suffix)
    try:
        tmp.touch(exist_ok=False)
        mode = tmp.stat().st_mode
        with at(path):  # the error of a full disk names no file
            yield tmp
        tmp.chmod(mode)  # some libraries write files that only the owner can read
        tmp.replace(path)
    finally:
        with suppress(OSError):
            tmp.unlink(missing_ok=True)


@contextmanager
def replacing_dir(path: str | Path, kind: Kind) -> Iterator[Path]:
    """Yield a temporary directory with the same parent; on success it replaces `path`.

    Other processes see the complete old directory at `path`, then the complete new one. Raises
    LopError as `check_dir` does, and OSError as `replacing` does.
    """
    path = Path(path)
    check_dir(path, kind)
    with temporary_dir(path) as tmp:
        with at(path):
            yield tmp
        _give_ordinary_modes(tmp)
        check_dir(path, kind)  # another process may have created it
        _put(tmp, path)


@contextmanager
def temporary_dir(path: Path) -> Iterator[Path]:
    """A directory next to `path`, deleted after the block. If the process is killed, the next write
    in the same parent directory deletes it."""
    tmp = _beside(path, "tmp")
    try:
        tmp.mkdir()
        yield tmp
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def remove_dir(path: Path) -> None:
    """Delete a directory of lop. It is renamed first: if this process is killed, no half of it is
    left at `path`."""
    tmp = _beside(path, "tmp")
    with suppress(FileNotFoundError):
        path.rename(tmp)
        shutil.rmtree(tmp, ignore_errors=True)


def clear_leftovers(directory: str | Path) -> None:
    """Remove the temporary files that ended processes left in `directory`.

    Temporary files of another machine are removed after a day. An old directory that was renamed,
    but not yet replaced, gets its name back.
    """
    with suppress(OSError):
        for path in Path(directory).iterdir():
            found = _TEMPORARY.fullmatch(path.name)
            if not found or not _abandoned(path, found["owner"]):
                continue
            if found["what"] == "old":
                _settle(path, path.with_name(found["name"]))
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def owner() -> str:
    """A name for this process that no other process sharing a directory or database has."""
    return f"{_machine()}-{os.getpid()}-{_started(os.getpid()) or 0}"


def has_ended(owner: str) -> bool | None:
    """Whether the process with this `owner` name has ended; None if it is on another machine."""
    machine, pid, started = owner.split("-")
    if machine != _machine():
        return None
    return _started(int(pid)) != int(started)


@functools.cache
def _machine() -> str:
    """Eight hex digits of this machine, its boot and its process-number namespace."""
    parts = [platform.node()]
    with suppress(OSError):
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text(),
            os.readlink("/proc/self/ns/pid"),
        ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _started(pid: int) -> int | None:
    """Start time of a process in ticks; 0 without /proc; None if the process does not exist."""
    if not os.path.exists("/proc/self/stat"):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return 0
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _abandoned(path: Path, owner: str) -> bool:
    ended = has_ended(owner)
    if ended is not None:
        return ended
    newest = max(p.lstat().st_ctime for p in (path, *path.rglob("*")))
    return time.time() - newest > ABANDONED


def _beside(path: Path, what: str, name: str = "") -> Path:
    """A new temporary name in the directory of `path`; also removes abandoned temporary files
    there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path.parent)
    return path.with_name(f".lop-{what}-{owner()}-{secrets.token_hex(4)}-{name}")


def _give_ordinary_modes(tmp: Path) -> None:
    """Set the usual file modes, those of `tmp`: some libraries write files that only the owner can
    read."""
    mode = stat.S_IMODE(tmp.stat().st_mode)
    for path in tmp.rglob("*"):
        if not path.is_symlink():
            path.chmod(mode if path.is_dir() else mode & 0o666)


def _put(tmp: Path, path: Path) -> None:
    """Rename `tmp` to `path`; a directory that was at `path` is then at `tmp` or deleted."""
    try:
        tmp.rename(path)  # works if `path` is absent or an empty directory
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not _exchange(tmp, path):
            old = _beside(path, "old", path.name)
            try:
                path.rename(old)
                tmp.rename(path)
            finally:
                _settle(old, path)


def _settle(old: Path, path: Path) -> None:
    """After both renames, delete `old`; after only the first, rename it back to `path`."""
    with suppress(FileNotFoundError):
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(path)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange the names of two directories atomically; False if the system does not support it."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an old C library
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if call(here, os.fsencode(a), here, os.fsencode(b), ctypes.c_uint(exchange)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # not supported by the file system
        return False
    raise OSError(code, os.strerror(code), str(b))


def content_digest(path: str | Path, without: Collection[str] = ()) -> str:
    """Sixteen hex digits over a file, or over all files of a directory except those named in
    `without`.

    Hidden files, such as those in .git, are left out.
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
