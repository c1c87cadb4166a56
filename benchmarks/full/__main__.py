"""The reference model, every method against every other: `python -m benchmarks.full`, `make full`.

Half an hour on two cores. It can be stopped and goes on from where it was; `--quick` is a smoke run
of a minute.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.full import page
from benchmarks.full.scale import QUICK, Questions
from benchmarks.grid import cells, steps
from benchmarks.grid.measured import Measured


def write(scale: Questions, out: Path) -> None:
    """Write the page of what is there to the directory `out`."""
    found, tasks = [], []
    for draw, results in steps.finished(scale):
        right = {key: of.correct for key, of in results.items()}
        pictures, ids = draw.asked()
        dense, each = cells.dense(draw).result().correct, np.ones(len(ids))
        found.append(Measured(right, dense, each, pictures, draw.chosen))
        tasks.append(np.array([name.split("-")[0] for name in ids]))
    page.write(found, tasks, scale, out)


if __name__ == "__main__":
    steps.command("full", __doc__, (Questions(), QUICK), write)
