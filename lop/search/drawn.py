"""Which of the reward samples a search sees, and which check its best plans.

A search that is judged by the samples that it fits finds plans that are good on those and mostly
not on others. So some parts of the samples are held out: of the best plans found, they say how much
better than the search's root each is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lop.data.clusters import clustered_error
from lop.plan import Plan

HOLD_OUT = 0.3  # share of the parts


class Parts(Protocol):
    """What a search needs of a reward (`lop.reward.Reward`): values of samples, by part."""

    @property
    def parts(self) -> Sequence[HasPictures]:
        """The parts of its samples."""

    def values(self, plan: Plan, part: int) -> np.ndarray:
        """The plan's reward on each sample of one part, (n,)."""


class HasPictures(Protocol):
    """A part of the samples, of which each is about one picture (or from one document)."""

    @property
    def pictures(self) -> np.ndarray:
        """(n,)"""


class Drawn:
    """A reward by some of its parts. Calling it with a plan gives the mean of their samples."""

    def __init__(self, reward: Parts, parts: Sequence[int]) -> None:
        self.reward, self.parts = reward, list(parts)

    def __call__(self, plan: Plan) -> float:
        """The plan's reward."""
        return float(np.concatenate([self.reward.values(plan, p) for p in self.parts]).mean())

    def gap(
        self, plan: Plan, root: Plan, parts: Sequence[int] | None = None
    ) -> tuple[float, float]:
        """How much better than `root` a plan is on the same samples, and the standard error of it.

        The error is that of a mean of clusters, a cluster a picture. `parts`: some of its parts.
        """
        chosen = self.parts if parts is None else parts
        gaps = [self.reward.values(plan, p) - self.reward.values(root, p) for p in chosen]
        pictures = [np.asarray(self.reward.parts[p].pictures) for p in chosen]
        found = np.concatenate(gaps)
        error = clustered_error(found, np.concatenate(pictures))
        return float(found.mean(dtype=float)), error


def held_out(parts: int, share: float) -> tuple[list[int], list[int]]:
    """Numbers of the parts that a search sees and of those held out, at least one if there are two.

    With a single part nothing can be held out.
    """
    held = min(parts - 1, max(1, round(share * parts))) if share else 0
    return list(range(parts - held)), list(range(parts - held, parts))
