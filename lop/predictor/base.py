"""What every predictor network shares: it learns only how a plan differs from the uniform one.

θ = sigmoid(logit(b) + f) with f zero at first: an untrained predictor says "uniform", and what it
learns on top of that carries over to budgets between those searched.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PlanNetwork(nn.Module):
    """Maps a budget to layer-wise pruning ratios."""

    def forward(self, budget: Tensor, plans: Tensor) -> Tensor:
        """For training: budget (B,) and the true plans (B, L) -> ratios (B, L)."""
        raise NotImplementedError

    def generate(self, budget: Tensor) -> Tensor:
        """From the budget alone: (B,) -> ratios (B, L)."""
        raise NotImplementedError


class ParallelNetwork(PlanNetwork):
    """Not autoregressive: p(θ | b) = Π p(θ_l | b), all layers at once; ignores true plans."""

    def difference(self, budget: Tensor) -> Tensor:
        """f of the output form: budget (B,) -> (B, L)."""
        raise NotImplementedError

    def forward(self, budget: Tensor, plans: Tensor) -> Tensor:
        """budget (B,) -> ratios (B, L), whatever the true plans are."""
        return from_uniform(budget, self.difference(budget))

    @torch.inference_mode()
    def generate(self, budget: Tensor) -> Tensor:
        """budget (B,) -> ratios (B, L)."""
        return from_uniform(budget, self.difference(budget))


def from_uniform(budget: Tensor, f: Tensor) -> Tensor:
    """sigmoid(logit(b) + f): budget (B,), f (B, T) -> ratios (B, T)."""
    return torch.sigmoid(torch.logit(budget.clamp(1e-4, 1 - 1e-4))[:, None] + f)


def zero_head(hidden: int, out: int) -> nn.Linear:
    """The last layer of a network, which says f = 0 until it is trained."""
    head = nn.Linear(hidden, out)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
