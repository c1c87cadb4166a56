"""A Bi-LSTM over the sites of the model to be pruned (an ablation in LOP)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lop.predictor.base import ParallelNetwork, Positions, zero_head


class PlanBiLSTM(ParallelNetwork):
    """Position i depends on the budget and on the states of its neighbours on both sides.

    It reads in both directions, so teacher forcing would show it the ratios to predict: unlike the
    Transformer, it is not autoregressive.
    """

    def __init__(self, kinds: Sequence[str], hidden: int = 128, depth: int = 2) -> None:
        super().__init__(kinds)
        self.budget = nn.Linear(1, hidden)
        self.position = Positions(kinds, hidden)
        self.lstm = nn.LSTM(hidden, hidden, depth, batch_first=True, bidirectional=True)
        self.head = zero_head(2 * hidden, 1)

    def difference(self, budget: Tensor) -> Tensor:
        """budget (B,) -> f (B, S)."""
        x = self.budget(budget[:, None, None]) + self.position.all()
        return self.head(self.lstm(x)[0])[..., 0]
