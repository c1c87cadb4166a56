"""The simplest predictor: from a budget to the ratios of all sites (an ablation in LOP)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from lop.predictor.base import ParallelNetwork, zero_head


class PlanMLP(ParallelNetwork):
    """`depth` hidden layers with GELU; one output for each site of the model to be pruned."""

    def __init__(self, kinds: Sequence[str], hidden: int = 128, depth: int = 2) -> None:
        super().__init__(kinds)
        widths = pairwise([1] + [hidden] * depth)
        self.body = nn.Sequential(*(m for a, b in widths for m in (nn.Linear(a, b), nn.GELU())))
        self.head = zero_head(hidden, len(kinds))

    def difference(self, budget: Tensor) -> Tensor:
        """budget (B,) -> f (B, S)."""
        return self.head(self.body(budget[:, None]))
