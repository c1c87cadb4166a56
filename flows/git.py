"""The git identity for DVC's experiments: they are commits, and git requires an author."""

from __future__ import annotations

import subprocess
from pathlib import Path

NOBODY = {"name": "lop", "email": "lop@localhost"}


def identity(place: Path) -> dict[str, str]:
    """Environment variables with the author and committer of git's configuration in `place`.

    If git has no name configured, as on a new machine, they are `NOBODY`'s.
    """
    found = {key: _configured(place, f"user.{key}") or value for key, value in NOBODY.items()}
    return {
        f"GIT_{role}_{key.upper()}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in found.items()
    }


def _configured(place: Path, key: str) -> str:
    told = subprocess.run(["git", "config", key], cwd=place, capture_output=True, text=True)
    return told.stdout.strip()
