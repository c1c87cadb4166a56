"""Times two functions in turn, so that other load on the machine affects both alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PAIRS = 10


@dataclass(frozen=True)
class Paired:
    """Speed of the second function relative to the first: the median ratio of the pairs, with their
    quartiles."""

    ratio: float
    low: float
    high: float
    first: float = 0.0  # seconds
    second: float = 0.0
    pairs: int = 0

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> Paired:
        """From the seconds of each call, (pairs,) both."""
        low, middle, high = map(float, np.quantile(first / second, (0.25, 0.5, 0.75)))
        return cls(middle, low, high, float(np.median(first)), float(np.median(second)), len(first))

    @property
    def is_noise(self) -> bool:
        """Whether the interval includes 1, so that neither is clearly faster."""
        return self.low <= 1 <= self.high

    def __str__(self) -> str:
        note = ", noise" if self.is_noise else ""
        return f"{self.ratio:.2f} ({self.low:.2f} to {self.high:.2f}{note})"


def in_turn(
    first: Callable[[], np.ndarray], second: Callable[[], np.ndarray], pairs: int = PAIRS
) -> list[Paired]:
    """Time two functions in turn, A B A B …, after one warm-up pair; each returns seconds, (k,).

    Returns one result for each of the k measurements.
    """
    seconds = np.stack([np.stack([first(), second()]) for _ in range(pairs + 1)][1:])
    return [Paired.of(seconds[:, 0, i], seconds[:, 1, i]) for i in range(seconds.shape[2])]
