"""Gemma 3 270M, every method against every other: `python -m benchmarks.real`, or `make real`.

Two hours on two cores, from packages to docs/results/real. It can be stopped and goes on from where
it was; `--quick` is a smoke run of some minutes.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.grid import cells, steps
from benchmarks.grid.measured import Measured
from benchmarks.real import page
from benchmarks.real.scale import QUICK, Texts


def write(scale: Texts, out: Path) -> None:
    """Write the page of what is there to the directory `out`."""
    found = []
    for draw, results in steps.finished(scale):
        dense, (documents, _) = cells.dense(draw).result(), draw.asked()
        lost = {key: -of.loglik for key, of in results.items()}
        found.append(Measured(lost, -dense.loglik, dense.tokens, documents, draw.chosen))
    page.write(found, scale, out)


if __name__ == "__main__":
    steps.command("real", __doc__, (Texts(), QUICK), write)
