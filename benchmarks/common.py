"""What the benchmarks share: the reference model's samples and scores, and how a page begins."""

from __future__ import annotations

import shlex
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

from flows.common import git_commit
from lop import steps

MODEL = "data/reference"
DATA = Path("data/benchmarks")
RESULTS = Path("docs/results")
SIZES = {"calibration": 500, "reward": 200, "validation": 500, "benchmark": 2}


def place(samples: str = "reward", score: str = "flap", kind: str = "loglik") -> tuple:
    """What `lop.steps.reward_of` needs, for the reference model and the samples of one purpose.

    Benchmark samples are never used here: nothing is chosen by them.
    """
    if not (DATA / "samples").exists():
        steps.prepare(DATA / "samples", "reference", seed=0, **SIZES)
    if not (DATA / "importance").exists():
        steps.importance(DATA / "importance", MODEL, DATA / "samples/calibration.parquet", 100)
    return (
        MODEL,
        DATA / f"samples/{samples}.parquet",
        DATA / "importance",
        score,
        False,
        kind,
        100,
    )


def adopt_searches(out: Path) -> None:
    """Take over the full profile's searches; a shard's name says all that it is of."""
    out.mkdir(parents=True, exist_ok=True)
    for shard in Path("data/search").glob("[!.]*.parquet"):
        if not (out / shard.name).exists():
            shutil.copy(shard, out)


def origin() -> str:
    """The line under a page's title that says how to make it again."""
    module = sys.modules["__main__"].__spec__
    command = shlex.join(["python", "-m", module.name if module else "", *sys.argv[1:]])
    return f"Made by `{command}` at commit {git_commit()[:12]} on {datetime.now(UTC).date()}."
