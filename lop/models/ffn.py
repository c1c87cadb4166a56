"""Finds the prunable part of a model: the feed-forward networks of its language decoder.

Importance, reward and pruning all walk over the list that `find_ffns` returns, so a model family
is understood here or nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from lop.errors import LopError


@dataclass(frozen=True)
class FFN:
    """One decoder layer's gated feed-forward network: down(act(gate(x)) · up(x))."""

    name: str
    gate: nn.Linear  # weight (d, hidden)
    up: nn.Linear  # weight (d, hidden)
    down: nn.Linear  # weight (hidden, d); its input holds the d intermediate neurons

    @property
    def width(self) -> int:
        """Intermediate neurons d."""
        return self.down.in_features


def find_ffns(model: PreTrainedModel) -> list[FFN]:
    """The decoder's FFNs in layer order; vision tower and projector are left alone.

    Raises LopError, naming the layer and what was found in it, when a layer has no gated FFN of
    three linear maps.
    """
    decoder = model.get_decoder()
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        raise LopError(f"{type(model).__name__}: no decoder layers found in its language model")
    prefix = next(name for name, module in model.named_modules() if module is layers)
    return [_ffn_of(f"{prefix}.{i}", layer) for i, layer in enumerate(layers)]


def ffn_widths(model: PreTrainedModel) -> tuple[int, ...]:
    """Intermediate neurons of each decoder layer, shape (L,)."""
    return tuple(ffn.width for ffn in find_ffns(model))


def _ffn_of(prefix: str, layer: nn.Module) -> FFN:
    for name, module in layer.named_modules():
        parts = [getattr(module, part, None) for part in ("gate_proj", "up_proj", "down_proj")]
        if all(isinstance(part, nn.Linear) for part in parts):
            return FFN(f"{prefix}.{name}", *parts)  # type: ignore[arg-type]
    found = sorted({type(m).__name__ for m in layer.modules()} - {type(layer).__name__})
    raise LopError(
        f"{prefix}: no feed-forward network with linear gate_proj, up_proj and down_proj; "
        f"found {', '.join(found)}"
    )


@torch.no_grad()
def keep_neurons(ffn: FFN, kept: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """Cut `ffn` in place down to the neurons with indices `kept`, shape (k,), ascending.

    `bias`, shape (hidden,), is added to down_proj (FLAP's compensation).
    """
    for linear in (ffn.gate, ffn.up):
        linear.weight = nn.Parameter(linear.weight[kept].clone(), requires_grad=False)
        if linear.bias is not None:
            linear.bias = nn.Parameter(linear.bias[kept].clone(), requires_grad=False)
        linear.out_features = len(kept)
    weight = ffn.down.weight[:, kept].contiguous()
    ffn.down.weight = nn.Parameter(weight, requires_grad=False)
    ffn.down.in_features = len(kept)
    if bias is not None:
        bias = bias.to(weight) + (0 if ffn.down.bias is None else ffn.down.bias)
        ffn.down.bias = nn.Parameter(bias, requires_grad=False)


def resize(ffns: Sequence[FFN], widths: Sequence[int], output_bias: bool = False) -> None:
    """Give freshly built (meta or empty) FFNs the widths of a pruned checkpoint, before loading."""
    for ffn, width in zip(ffns, widths, strict=True):
        for linear in (ffn.gate, ffn.up):
            linear.weight = nn.Parameter(linear.weight.new_empty(width, linear.in_features))
            if linear.bias is not None:
                linear.bias = nn.Parameter(linear.bias.new_empty(width))
            linear.out_features = width
        ffn.down.weight = nn.Parameter(ffn.down.weight.new_empty(ffn.down.out_features, width))
        ffn.down.in_features = width
        if output_bias:
            ffn.down.bias = nn.Parameter(ffn.down.weight.new_empty(ffn.down.out_features))
