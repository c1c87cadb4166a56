"""Two things timed in turn, so that a busy moment of the machine hits both alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PAIRS = 10


@dataclass(frozen=True)
class Paired:
    """How many times as fast as the first of two things the second is, with an interval that holds
    the middle half of the pairs."""

    ratio: float
    low: float
    high: float
    first: float = 0.0  # seconds
    second: float = 0.0
    pairs: int = 0

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> Paired:
        """Of the seconds that each took, (pairs,) both."""
        low, middle, high = map(float, np.quantile(first / second, (0.25, 0.5, 0.75)))
        return cls(middle, low, high, float(np.median(first)), float(np.median(second)), len(first))

    @property
    def is_noise(self) -> bool:
        """Whether the pairs do not agree on which of the two is faster."""
        return self.low <= 1 <= self.high

    def __str__(self) -> str:
        note = ", noise" if self.is_noise else ""
        return f"{self.ratio:.2f} ({self.low:.2f} to {self.high:.2f}{note})"


def in_turn(
    first: Callable[[], np.ndarray], second: Callable[[], np.ndarray], pairs: int = PAIRS
) -> list[Paired]:
    """Time two things in turn, A B A B …, after once without; both return seconds, (k,) each.

    One result for each of the k.
    """
    seconds = np.stack([np.stack([first(), second()]) for _ in range(pairs + 1)][1:])
    return [Paired.of(seconds[:, 0, i], seconds[:, 1, i]) for i in range(seconds.shape[2])]
