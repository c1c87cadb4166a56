"""Checks what a command leaves behind: it must not change foreign files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

# Foreign files in lop's directories, some with names like its temporary ones.
BYSTANDERS = {
    ".env.local": "KEY=value\n",
    ".gitlab-ci.yml": "stages: []\n",
    ".out.old": "a file of somebody's\n",
    ".hidden/keep.txt": "kept\n",
    "foreign/notes.txt": "notes\n",
}
OURS = (".lop", "mlflow.db", "mlruns")  # what tracking makes in the working folder

Listing = dict[str, list[object]]


def put_bystanders(folder: Path) -> None:
    """Put foreign files into a directory, and unusual output paths."""
    for name, text in BYSTANDERS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "to-foreign").symlink_to("foreign")
    os.mkfifo(folder / "fifo")


def listing(folder: Path) -> Listing:
    """Every file below a folder: its kind, size and time of change, or where a link leads."""
    found: Listing = {}
    for path in folder.rglob("*"):
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode):
            found[str(path.relative_to(folder))] = ["link", os.readlink(path)]
        elif not stat.S_ISDIR(info.st_mode):
            kind = stat.S_IFMT(info.st_mode)
            found[str(path.relative_to(folder))] = [kind, info.st_size, info.st_mtime_ns]
    return found


def touched(before: Listing, after: Listing, own: Iterable[str] = ()) -> list[str]:
    """Files that are missing or changed, except `own` paths and everything below them."""
    mine = (*own, *OURS)
    changed = [name for name, what in before.items() if after.get(name) != what]
    return sorted(name for name in changed if not _below(name, mine))


def leftovers(before: Listing, folder: Path) -> list[str]:
    """New hidden files and directories: temporary ones that were not removed."""
    known = {str(parent) for name in before for parent in (Path(name), *Path(name).parents)}
    found = [str(p.relative_to(folder)) for p in folder.rglob(".*")]
    return sorted(n for n in found if n not in known and not _below(n, OURS) and _odd(n))


def _odd(name: str) -> bool:
    return Path(name).name not in (".lock", ".cache")


def _below(name: str, places: Iterable[str]) -> bool:
    return any(name == place or name.startswith(f"{place.rstrip('/')}/") for place in places)
