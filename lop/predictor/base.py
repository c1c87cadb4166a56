"""What every predictor network shares: it learns only how a plan differs from a known one.

θ = base(b) + f with f zero at first: an untrained predictor says the base plan, and so does one
that was shown nothing better. What it learns on top carries over to budgets between those searched.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

GRID = 101  # budgets 0, 0.01 … 1, between which a base is linear


class PlanNetwork(nn.Module):
    """Maps a budget to layer-wise pruning ratios.

    `base` (GRID, L) holds the base plan of each budget: uniform at first, any other by assignment.
    """

    base: Tensor

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.register_buffer("base", torch.linspace(0, 1, GRID)[:, None].repeat(1, layers))

    def forward(self, budget: Tensor, plans: Tensor) -> Tensor:
        """For training: budget (B,) and the true plans (B, L) -> ratios (B, L)."""
        raise NotImplementedError

    def generate(self, budget: Tensor) -> Tensor:
        """From the budget alone: (B,) -> ratios (B, L)."""
        raise NotImplementedError

    def base_plan(self, budget: Tensor) -> Tensor:
        """base(b): (B,) -> (B, L). A budget is linear in its plan, so mixes meet theirs."""
        place = budget.clamp(0, 1) * (GRID - 1)
        low = place.long().clamp(max=GRID - 2)
        return torch.lerp(self.base[low], self.base[low + 1], (place - low)[:, None])


class ParallelNetwork(PlanNetwork):
    """Not autoregressive: p(θ | b) = Π p(θ_l | b), all layers at once; ignores true plans."""

    def difference(self, budget: Tensor) -> Tensor:
        """f of the output form: budget (B,) -> (B, L)."""
        raise NotImplementedError

    def forward(self, budget: Tensor, plans: Tensor) -> Tensor:
        """budget (B,) -> ratios (B, L), whatever the true plans are."""
        return self.base_plan(budget) + self.difference(budget)

    @torch.inference_mode()
    def generate(self, budget: Tensor) -> Tensor:
        """budget (B,) -> ratios (B, L)."""
        return self.forward(budget, budget)


def zero_head(hidden: int, out: int) -> nn.Linear:
    """The last layer of a network, which says f = 0 until it is trained."""
    head = nn.Linear(hidden, out)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
