"""Shared by the benchmarks: the reference model's samples and scores, and the first line of a
page."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from flows.common import git_commit
from lop.steps import preparing, scoring

MODEL = "data/reference"
DATA = Path("data/benchmarks")
RESULTS = Path("docs/results")
SIZES = {"calibration": 500, "reward": 200, "validation": 500, "benchmark": 2}


def place(samples: str = "reward", score: str = "flap", kind: str = "loglik") -> tuple:
    """Arguments of `searching.reward_of` for the reference model and the samples of one purpose.

    Benchmark samples are never used here, because settings must not be chosen on them.
    """
    if not (DATA / "samples").exists():
        preparing.prepare(DATA / "samples", "reference", 0, SIZES)
    if not (DATA / "importance").exists():
        scoring.importance(
            DATA / "importance",
            MODEL,
            DATA / "samples/calibration.parquet",
            100,
            DATA / "samples/reward.parquet",
        )
    return (
        MODEL,
        DATA / f"samples/{samples}.parquet",
        DATA / "importance",
        score,
        False,
        kind,
        40,
    )


def origin() -> str:
    """The line under a page's title with the command that made it."""
    spec = sys.modules["__main__"].__spec__
    module = spec.name.removesuffix(".__main__") if spec else ""
    given = [word for word in sys.argv[1:] if word != "--page"]  # which computes nothing
    command = shlex.join(["python", "-m", module, *given])
    return f"Made by `{command}` at commit {git_commit()[:12]} on {datetime.now(UTC).date()}."
