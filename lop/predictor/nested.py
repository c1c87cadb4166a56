"""Plans that are nested: the less a model keeps, the less each of its layers does.

Known at a grid of budgets, and linear between them. Rounding keeps the order: a layer's share x_l
grows with the budget, its j-th neuron comes where x_l reaches j - 1/2, and a plan of n neurons has
the n that come first. So it is exact, and part of every larger one; rounding by largest remainder
would not be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lop.errors import LopError
from lop.plan import Plan, budget, min_kept, shift_to_sum


@dataclass(frozen=True)
class Nested:
    """Neurons kept by budget: `totals` (G,) ascending, and each layer's part of them (G, L), which
    does not fall."""

    widths: tuple[int, ...]
    least: np.ndarray  # that each layer keeps, (L,)
    totals: np.ndarray
    kept: np.ndarray

    @classmethod
    def of(
        cls, plans: np.ndarray, ratios: np.ndarray, widths: Sequence[int], min_keep: float
    ) -> Nested:
        """From layer-wise ratios (G, L) at ascending global ratios (G,), which need not be exact.

        Each plan is put on its budget by a common shift, within the next smaller ratio's plan.
        Raises LopError for ratios that are not finite.
        """
        if not np.isfinite(plans).all():
            raise LopError("layer-wise ratios must be finite numbers")
        low, d = min_kept(widths, min_keep).astype(float), np.asarray(widths, float)
        totals = (1 - ratios) * d.sum()
        totals[[0, -1]] = [budget(widths, float(ratio)) for ratio in ratios[[0, -1]]]
        rows = [d]
        for plan, total in zip(plans, totals, strict=True):
            total = min(max(total, low.sum()), rows[-1].sum())
            rows.append(np.minimum(rows[-1], shift_to_sum((1 - plan) * d, rows[-1], low, total)))
        kept = np.stack(rows[:0:-1])
        return cls(tuple(widths), low, kept.sum(1), kept)

    def plan(self, total: int) -> Plan:
        """The plan that keeps so many neurons, between the first and the last of `totals`."""
        low, high = self.totals[0] - len(self.widths), self.totals[-1] + len(self.widths)
        while low < (middle := (low + high) / 2) < high:
            if self._at(middle).sum() < total:
                low = middle
            else:
                high = middle
        kept, coming = self._at(low), self._at(high)
        # where several neurons come at once, those of the first layers come first
        waiting = np.flatnonzero(coming > kept)
        kept[waiting[: total - kept.sum()]] += 1
        return Plan(self.widths, tuple(int(k) for k in kept))

    def _at(self, total: float) -> np.ndarray:
        """Each layer's neurons that have come at a budget, (L,)."""
        row = int(np.clip(np.searchsorted(self.totals, total) - 1, 0, len(self.totals) - 2))
        low, high = self.kept[row], self.kept[row + 1]
        span = self.totals[row + 1] - self.totals[row]
        share = np.clip((total - self.totals[row]) / span, 0, 1) if span > 0 else 1.0
        # beyond the ends, rounding alone decides: half a neuron a layer
        beyond = np.clip(
            (total - np.clip(total, self.totals[0], self.totals[-1])) / len(low), -1, 1
        )
        exact = np.clip(low + share * (high - low), low, high) + beyond
        return np.clip(np.floor(exact + 0.5), self.least, self.widths).astype(int)
