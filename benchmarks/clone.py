"""A copy of this repository to run a small pipeline in: for measurements, and for tests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
COPIED = [
    "Makefile", "dvc.yaml", "params.yaml", "prefect.yaml", "flows", "lop", "data/reference",
    ".dvc/config", ".dvcignore", ".gitignore",
]  # fmt: skip


def copy(place: Path) -> None:
    """Copy the files of a pipeline to directory `place`, which is not a git repository yet."""
    for name in COPIED:
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)


def set_params(place: Path, section: str, **values: Any) -> None:
    """Change values of params.yaml in `place`."""
    params = yaml.safe_load((place / "params.yaml").read_text())
    params[section] |= values
    (place / "params.yaml").write_text(yaml.safe_dump(params))
