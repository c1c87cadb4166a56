"""Shared by all predictor networks: a network learns the difference from a base plan.

θ = base(b) + f with f zero at first: an untrained predictor gives the base plan, and so does one
that was trained on nothing better. The learned difference also applies to budgets between the
searched ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

GRID = 101  # budgets 0, 0.01 … 1; a base is linear between them


class PlanNetwork(nn.Module):
    """Maps a budget to pruning ratios of sites of these `kinds`, S of them.

    `base` (GRID, S) holds the base plan of each budget: uniform at first, any other by assignment.
    """

    base: Tensor

    def __init__(self, kinds: Sequence[str]) -> None:
        super().__init__()
        self.register_buffer("base", torch.linspace(0, 1, GRID)[:, None].repeat(1, len(kinds)))

    def forward(self, budget: Tensor, plans: Tensor) -> Tensor:
        """For training: budget (B,) and the true plans (B, S) -> ratios (B, S)."""
        raise NotImplementedError

    def generate(self, budget: Tensor) -> Tensor:
        """From the budget alone: budget (B,) -> ratios (B, S)."""
        raise NotImplementedError

    def base_plan(self, budget: Tensor) -> Tensor:
        """base(b): budget (B,) -> ratios (B, S). A budget is linear in its plan, so an interpolated
        plan meets the interpolated budget."""
        place = budget.clamp(0, 1) * (GRID - 1)
        low = place.long().clamp(max=GRID - 2)
        return torch.lerp(self.base[low], self.base[low + 1], (place - low)[:, None])


class ParallelNetwork(PlanNetwork):
    """Not autoregressive: p(θ | b) = Π p(θ_i | b), all sites at once; ignores true plans."""

    def difference(self, budget: Tensor) -> Tensor:
        """f in θ = base(b) + f: budget (B,) -> (B, S)."""
        raise NotImplementedError

    def forward(self, budget: Tensor, plans: Tensor) -> Tensor:
        """budget (B,) -> ratios (B, S), whatever the true plans are."""
        return self.base_plan(budget) + self.difference(budget)

    @torch.inference_mode()
    def generate(self, budget: Tensor) -> Tensor:
        """budget (B,) -> ratios (B, S)."""
        return self.forward(budget, budget)


class Positions(nn.Embedding):
    """Embeddings of the sites, (S, hidden): the sum of those of position and of kind."""

    def __init__(self, kinds: Sequence[str], hidden: int) -> None:
        super().__init__(len(kinds), hidden)
        names = sorted(set(kinds))
        self.kind = nn.Embedding(len(names), hidden) if len(names) > 1 else None
        places = torch.tensor([names.index(kind) for kind in kinds])
        self.register_buffer("kinds", places, persistent=False)

    def all(self) -> Tensor:
        """All embeddings, (S, hidden)."""
        return self.weight if self.kind is None else self.weight + self.kind(self.kinds)


def zero_head(hidden: int, out: int) -> nn.Linear:
    """The last layer of a network; its output is f = 0 before training."""
    head = nn.Linear(hidden, out)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
