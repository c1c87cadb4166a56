"""The autoregressive predictor: p(θ | b) = Π p(θ_i | b, θ_<i) (LOP, appendix A.1, eq. 7-12).

A causal Transformer over the sites of the model to be pruned. The inputs of position i are the
budget b and the ratios of the sites before it; its output is the ratio of site i.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lop.errors import LopError
from lop.predictor.base import PlanNetwork, Positions, zero_head


class Block(nn.Module):
    """Pre-norm causal self-attention and a GELU MLP of four times the width."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.mlp = nn.Sequential(
            nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden)
        )

    def forward(self, x: Tensor) -> Tensor:
        """All positions at once: x (B, T, hidden) -> the same."""
        b, t, h = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, h // self.heads).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(b, t, h))
        return x + self.mlp(self.norm2(x))

    def stepper(self, rows: int, length: int) -> Callable[[Tensor, int], Tensor]:
        """The same, one position at a time in order: x (B, hidden), position -> x.

        Plain functions and one preallocated cache: with tensors this small, calls of modules and
        growing caches would take as long as the arithmetic.
        """
        modules: tuple[Any, ...] = (
            self.norm1,
            self.qkv,
            self.out,
            self.norm2,
            self.mlp[0],
            self.mlp[2],
        )
        norm1, qkv, out, norm2, up, down = ((m.weight, m.bias) for m in modules)
        shape, heads = self.norm1.normalized_shape, self.heads
        each = shape[0] // heads
        past = qkv[0].new_empty(2, rows, heads, length, each)  # keys and values

        def step(x: Tensor, at: int) -> Tensor:
            new = F.linear(F.layer_norm(x, shape, *norm1), *qkv).view(rows, 3, heads, 1, each)
            past[..., at : at + 1, :] = new[:, 1:].transpose(0, 1)
            keys, values = past[..., : at + 1, :].unbind()
            attended = F.scaled_dot_product_attention(new[:, 0], keys, values)
            x = x + F.linear(attended.reshape(rows, -1), *out)
            return x + F.linear(F.gelu(F.linear(F.layer_norm(x, shape, *norm2), *up)), *down)

        return step


class PlanTransformer(PlanNetwork):
    """Maps a budget to pruning ratios of sites, one site after another."""

    def __init__(
        self, kinds: Sequence[str], hidden: int = 128, depth: int = 2, heads: int = 4
    ) -> None:
        super().__init__(kinds)
        if hidden % heads:
            raise LopError(f"transformer: hidden {hidden} cannot be split among {heads} heads")
        self.sites = len(kinds)
        self.budget = nn.Linear(1, hidden)
        self.ratio = nn.Linear(1, hidden)
        self.first = nn.Parameter(torch.zeros(hidden))
        self.position = Positions(kinds, hidden)
        self.blocks = nn.ModuleList(Block(hidden, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)
        self.head = zero_head(hidden, 1)

    def forward(self, budget: Tensor, plans: Tensor) -> Tensor:
        """Teacher forcing: budget (B,), true plans (B, S) -> predicted ratios (B, S)."""
        before = self.ratio(plans[:, :-1, None])
        first = self.first.expand(len(plans), 1, -1)
        x = torch.cat([first, before], 1) + self.budget(budget[:, None, None])
        x = x + self.position.all()
        for block in self.blocks:
            x = block(x)
        return self.base_plan(budget) + self.head(self.norm(x))[..., 0]

    @torch.inference_mode()
    def generate(self, budget: Tensor) -> Tensor:
        """Without teacher forcing: budget (B,) -> ratios (B, S), each site from the predicted
        ratios before it."""
        rows = len(budget)
        blocks: Iterable[Any] = self.blocks
        steps = [block.stepper(rows, self.sites) for block in blocks]
        base, known = self.base_plan(budget), self.budget(budget[:, None])
        ratios = torch.empty_like(base)
        token = self.first.expand(rows, -1)
        for site, position in enumerate(self.position.all()):
            x = token + known + position
            for step in steps:
                x = step(x, site)
            here = slice(site, site + 1)
            ratios[:, here] = base[:, here] + self.head(self.norm(x))
            token = self.ratio(ratios[:, here])
        return ratios
