"""Who commits: DVC's experiments are commits, and git refuses them from nobody."""

from __future__ import annotations

import subprocess
from pathlib import Path

NOBODY = {"name": "lop", "email": "lop@localhost"}


def identity(place: Path) -> dict[str, str]:
    """Environment variables that name author and committer as git does in `place`.

    Where nobody has told git a name, as on a fresh machine, they are `NOBODY`'s.
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
