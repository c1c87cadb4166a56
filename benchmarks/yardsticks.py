"""The two models that defaults are measured on: the reference model, and a real decoder.

They are those of the tables, with validation samples and none of the test: nothing is chosen by
the text and the questions that a table is made of.
"""

from __future__ import annotations

from benchmarks.full.scale import Questions
from benchmarks.grid.draw import Draw
from benchmarks.grid.scale import Scale
from benchmarks.real.scale import Texts

YARDSTICKS: dict[str, Scale] = {
    "reference": Questions(reward=1000, validation=1000, test=0),
    "real": Texts(reward=60, chosen_on=60, validation=60, test=0),
}


def drawn(name: str, number: int) -> Draw:
    """A draw of a yardstick."""
    return Draw(YARDSTICKS[name], number)
