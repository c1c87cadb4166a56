"""Steps that run once each, with an estimate of the remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """Work that writes `out`; `cost` is its size, in a unit common to all steps."""

    label: str
    out: Path
    cost: float
    do: Callable[[], None]


def run(steps: Sequence[Step], say: Callable[[str], None] = print) -> None:
    """Run the missing steps in order; after each, print the estimated remaining time."""
    left = [step for step in steps if not step.out.exists()]
    say(f"{len(steps) - len(left)} of {len(steps)} steps are there")
    spent = paid = 0.0
    for number, step in enumerate(left, 1):
        begun = time.perf_counter()
        step.do()
        seconds = time.perf_counter() - begun
        spent, paid = spent + seconds, paid + step.cost
        rest = spent / paid * sum(step.cost for step in left[number:]) if paid else 0.0
        say(f"{step.label}: {seconds:.0f} s; {number} of {len(left)}, {rest / 60:.0f} min left")
