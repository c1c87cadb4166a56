"""The autoregressive predictor: p(θ | b) = Π p(θ_l | b, θ_<l) (LOP, appendix A.1, eq. 7-12).

A causal Transformer over the layers of the model to be pruned. Position l sees the budget b and the
ratios of the layers before it, and gives the ratio of layer l.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lop.errors import LopError
from lop.predictor.base import PlanNetwork, zero_head

Cache = list[tuple[Tensor, Tensor]]


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

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple]:
        """x (B, T, hidden) -> the same; with `past`, T is 1 and its keys and values come first."""
        b, t, h = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, h // self.heads).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        x = x + self.out(attended.transpose(1, 2).reshape(b, t, h))
        return x + self.mlp(self.norm2(x)), (k, v)


class PlanTransformer(PlanNetwork):
    """Maps a budget to layer-wise pruning ratios, one layer after another."""

    def __init__(self, layers: int, hidden: int = 128, depth: int = 2, heads: int = 4) -> None:
        super().__init__(layers)
        if hidden % heads:
            raise LopError(f"transformer: hidden {hidden} cannot be split among {heads} heads")
        self.layers = layers
        self.budget = nn.Linear(1, hidden)
        self.ratio = nn.Linear(1, hidden)
        self.first = nn.Parameter(torch.zeros(hidden))
        self.position = nn.Embedding(layers, hidden)
        self.blocks = nn.ModuleList(Block(hidden, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)
        self.head = zero_head(hidden, 1)

    def forward(self, budget: Tensor, plans: Tensor) -> Tensor:
        """Teacher forcing: budget (B,), true plans (B, L) -> predicted ratios (B, L)."""
        before = self.ratio(plans[:, :-1, None])
        first = self.first.expand(len(plans), 1, -1)
        x = torch.cat([first, before], 1) + self.budget(budget[:, None, None])
        return self._step(x + self.position.weight, self.base_logits(budget), None)[0]

    @torch.inference_mode()
    def generate(self, budget: Tensor) -> Tensor:
        """Free running: budget (B,) -> ratios (B, L), each layer from its own predecessors."""
        base, cache = self.base_logits(budget), None
        token, ratios = self.first.expand(len(budget), 1, -1), []
        for layer in range(self.layers):
            x = token + self.budget(budget[:, None, None]) + self.position.weight[layer]
            ratio, cache = self._step(x, base[:, layer : layer + 1], cache)
            ratios.append(ratio)
            token = self.ratio(ratio[..., None])
        return torch.cat(ratios, 1)

    def _step(self, x: Tensor, base: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        new: Cache = []
        for i, block in enumerate(self.blocks):
            x, kept = block(x, cache[i] if cache else None)
            new.append(kept)
        return torch.sigmoid(base + self.head(self.norm(x))[..., 0]), new
