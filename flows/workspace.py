"""Where a run of the pipeline works: here, or with other params in a copy of all this."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows import git
from flows.reasons import reason
from lop.errors import LopError

RUNS = Path(".dvc/tmp/lop")  # DVC's own corner, which git ignores


@contextmanager
def workspace(overrides: list[str]) -> Iterator[Path]:
    """The working tree; with overrides, a copy of it whose params.yaml has them.

    The copy shares DVC's cache. When the block ends well, what came out is a DVC experiment of the
    working tree's repository, and the copy goes; else it stays, and the same overrides go on in it.
    Raises LopError for overrides that params.yaml has no place for.
    """
    here = Path.cwd()
    if not overrides:
        yield here
        return
    name = "lop-" + hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:8]
    place = (here / RUNS / name).absolute()
    _copy(here, place)
    _override(place, overrides)
    yield place
    _save(here, place, name)
    shutil.rmtree(place)


def _copy(here: Path, place: Path) -> None:
    """A clone with the working tree's files, changed and new ones included."""
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        _sh(here, "git", "clone", "--quiet", "--shared", "--no-checkout", str(here), str(place))
    _sh(place, "git", "reset", "--quiet", _sh(here, "git", "rev-parse", "HEAD"))
    listed = _sh(here, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (here / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(here / name, place / name)
        else:
            (place / name).unlink(missing_ok=True)
    _configure(here, place)
    # what earlier runs made, as far as it is here
    _dvc(place, "checkout", "--force", "--allow-missing")


def _configure(here: Path, place: Path) -> None:
    """Give the copy the working tree's cache, and its other settings of DVC.

    Paths in them are relative to the file that names them, so they are read there and written anew.
    """
    from dvc.config import Config, merge
    from dvc.config_schema import RelPath
    from dvc.repo import Repo

    with Repo(str(here)) as repo:
        cache = repo.cache.local_cache_dir
    config = Config(str(here / ".dvc"))
    with Config(str(place / ".dvc")).edit("local") as local:
        for level in ("repo", "local"):
            merge(local, config.load_one(level))
        local["cache"]["dir"] = RelPath(cache)


def _override(place: Path, overrides: list[str]) -> None:
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    try:
        apply_overrides(place / "params.yaml", overrides)
    except DvcException as error:
        line = str(error).strip().split("\n")[0]
        raise LopError(f"params.yaml: cannot set {', '.join(overrides)}: {line}") from error


def _save(here: Path, place: Path, name: str) -> None:
    _dvc(place, "exp", "save", "--force", "--name", name)
    head = _sh(here, "git", "rev-parse", "HEAD")
    ref = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
    _sh(here, "git", "fetch", "--quiet", str(place), f"+{ref}:{ref}")


def _dvc(place: Path, *arguments: str) -> None:
    """A command of DVC in its own process, since this one's `Repo` ignores the copy's folder."""
    _sh(place, sys.executable, "-m", "dvc", *arguments)


def _sh(place: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=place,
        env=git.identity(Path.cwd()) | os.environ,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        name = "dvc" if command[1:3] == ("-m", "dvc") else command[0]
        raise LopError(f"{name} in {place}: {reason(done.stderr or done.stdout)}")
    return done.stdout.strip()
