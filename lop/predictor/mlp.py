"""The plainest predictor: budget in, all layers' ratios out (an ablation in LOP)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from lop.predictor.base import ParallelNetwork, zero_head


class PlanMLP(ParallelNetwork):
    """`depth` hidden layers of GELU; an output for each layer of the model to be pruned."""

    def __init__(self, layers: int, hidden: int = 128, depth: int = 2) -> None:
        super().__init__(layers)
        widths = pairwise([1] + [hidden] * depth)
        self.body = nn.Sequential(*(m for a, b in widths for m in (nn.Linear(a, b), nn.GELU())))
        self.head = zero_head(hidden, layers)

    def difference(self, budget: Tensor) -> Tensor:
        """budget (B,) -> f (B, L)."""
        return self.head(self.body(budget[:, None]))
