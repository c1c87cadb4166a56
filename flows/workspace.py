"""The directory of a pipeline run: the working tree, or a copy of it for a run with other
params."""

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

RUNS = Path(".dvc/tmp/lop")  # in DVC's temporary directory, which git ignores


@contextmanager
def workspace(overrides: list[str]) -> Iterator[Path]:
    """The working tree; with overrides, a copy of it whose params.yaml has them.

    The copy shares DVC's cache. If the block succeeds, the result becomes a DVC experiment of the
    working tree's repository, and the copy is deleted. Otherwise the copy stays, and a run with the
    same overrides resumes in it. Raises LopError for overrides that params.yaml does not have.
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
    """A clone with the working tree's files, including changed and new ones."""
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
    # the outputs of earlier runs, if they are in the cache
    _dvc(place, "checkout", "--force", "--allow-missing")


def _configure(here: Path, place: Path) -> None:
    """Give the copy the working tree's DVC cache and other DVC settings.

    Paths in them are relative to their config file, so they are resolved and written again.
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
    """Run a DVC command in another process, because DVC's `Repo` in this one ignores the copy's
    directory."""
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
