"""Splits the reward samples into those that a search uses and those held out for its best plans.

A search overfits to its samples: its plans are good on these and mostly not on others. So some
parts of the samples are held out, and measure how much better than the root the best plans are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lop.data.clusters import clustered_error
from lop.plan import Plan

HOLD_OUT = 0.3  # share of the parts


class Parts(Protocol):
    """The part of `lop.reward.Reward` that a search needs: rewards of samples, by part."""

    @property
    def parts(self) -> Sequence[HasPictures]:
        """The parts of its samples."""

    def values(self, plan: Plan, part: int) -> np.ndarray:
        """The plan's reward on each sample of one part, (n,)."""


class HasPictures(Protocol):
    """A part of the samples; each sample is about one picture (or from one document)."""

    @property
    def pictures(self) -> np.ndarray:
        """The picture (or document) of each sample, (n,)."""


class Drawn:
    """A reward on some parts of its samples. A call with a plan gives the mean over them."""

    def __init__(self, reward: Parts, parts: Sequence[int]) -> None:
        self.reward, self.parts = reward, list(parts)

    def __call__(self, plan: Plan) -> float:
        """The plan's reward."""
        return float(np.concatenate([self.reward.values(plan, p) for p in self.parts]).mean())

    def gap(
        self, plan: Plan, root: Plan, parts: Sequence[int] | None = None
    ) -> tuple[float, float]:
        """The gain of a plan over `root` on the same samples, and its standard error.

        The error is clustered by picture. `parts` selects some of the parts (default: all).
        """
        chosen = self.parts if parts is None else parts
        gaps = [self.reward.values(plan, p) - self.reward.values(root, p) for p in chosen]
        pictures = [np.asarray(self.reward.parts[p].pictures) for p in chosen]
        found = np.concatenate(gaps)
        error = clustered_error(found, np.concatenate(pictures))
        return float(found.mean(dtype=float)), error


def held_out(parts: int, share: float) -> tuple[list[int], list[int]]:
    """Indices of the search's parts and of the held-out parts, at least one if there are two.

    With a single part nothing is held out.
    """
    held = min(parts - 1, max(1, round(share * parts))) if share else 0
    return list(range(parts - held)), list(range(parts - held, parts))
