"""Where a run of the pipeline works: here, or with other params in a copy of all this."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    if (here / ".dvc/config.local").exists():
        shutil.copy2(here / ".dvc/config.local", place / ".dvc/config.local")
    _share_cache(here, place)


def _share_cache(here: Path, place: Path) -> None:
    from dvc.repo import Repo

    with Repo(str(here)) as repo:
        cache = repo.cache.local.path
    dvc = [sys.executable, "-m", "dvc"]  # in its own process, since this folder is ignored here
    _sh(place, *dvc, "config", "--local", "cache.dir", cache)
    # what earlier runs made, as far as it is here
    _sh(place, *dvc, "checkout", "--quiet", "--force", "--allow-missing")


def _override(place: Path, overrides: list[str]) -> None:
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    try:
        apply_overrides(place / "params.yaml", overrides)
    except DvcException as error:
        line = str(error).strip().split("\n")[0]
        raise LopError(f"params.yaml: cannot set {', '.join(overrides)}: {line}") from error


def _save(here: Path, place: Path, name: str) -> None:
    _sh(place, sys.executable, "-m", "dvc", "exp", "save", "--quiet", "--force", "--name", name)
    head = _sh(here, "git", "rev-parse", "HEAD")
    ref = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
    _sh(here, "git", "fetch", "--quiet", str(place), f"+{ref}:{ref}")


def _sh(place: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    if done.returncode:
        raise LopError(f"{' '.join(command[:3])} in {place}: {done.stderr.strip()}")
    return done.stdout.strip()
