"""A plan and scores in, a really smaller model out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lop.errors import LopError
from lop.importance import check_scores
from lop.models.checkpoint import set_widths
from lop.models.ffn import FFN, find_ffns, keep_neurons
from lop.plan import Plan


def kept_neurons(scores: Sequence[Tensor], plan: Plan) -> list[Tensor]:
    """Indices of the neurons each layer keeps, (k_l,) ascending: its k_l highest scores.

    Ties go to the lower index. Raises LopError when scores and plan do not fit.
    """
    check_scores(scores, plan.widths, "pruning")
    order = [torch.argsort(score, descending=True, stable=True) for score in scores]
    return [o[:k].sort().values for o, k in zip(order, plan.kept, strict=True)]


@torch.no_grad()
def prune(
    model: PreTrainedModel,
    plan: Plan,
    scores: Sequence[Tensor],
    mean_activation: Sequence[Tensor] | None = None,
) -> PreTrainedModel:
    """Cut the model's FFNs in place down to `plan`, keeping the neurons that score highest.

    With `mean_activation`, (d_l,) a layer, down_proj gets a bias that restores the pruned neurons'
    mean output (FLAP's compensation): W_down[:, pruned] · mean[pruned].

    Raises LopError when plan or scores do not fit the model.
    """
    ffns = find_ffns(model)
    _check_plan(ffns, plan)
    for i, (ffn, kept) in enumerate(zip(ffns, kept_neurons(scores, plan), strict=True)):
        bias = None if mean_activation is None else lost_output(ffn, kept, mean_activation[i])
        keep_neurons(ffn, kept.to(ffn.down.weight.device), bias)
    set_widths(model, output_bias=mean_activation is not None)
    return model


def lost_output(ffn: FFN, kept: Tensor, mean: Tensor) -> Tensor:
    """What the neurons not in `kept` add to the FFN's output on average, float32 (hidden,)."""
    pruned = torch.ones(ffn.width, dtype=torch.bool)
    pruned[kept] = False
    weight = ffn.down.weight
    return weight[:, pruned.to(weight.device)].float() @ mean[pruned].to(weight.device)


@contextmanager
def masked(model: PreTrainedModel, plan: Plan, scores: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the full-size model computes what the pruned one would: pruned activations are 0."""
    ffns = find_ffns(model)
    _check_plan(ffns, plan)
    with ExitStack() as hooks:
        for ffn, kept in zip(ffns, kept_neurons(scores, plan), strict=True):
            mask = torch.zeros(ffn.width, dtype=ffn.down.weight.dtype)
            mask[kept] = 1
            mask = mask.to(ffn.down.weight.device)
            handle = ffn.down.register_forward_pre_hook(lambda _, args, m=mask: (args[0] * m,))
            hooks.callback(handle.remove)
        yield


def _check_plan(ffns: Sequence[FFN], plan: Plan) -> None:
    widths = tuple(ffn.width for ffn in ffns)
    if plan.widths != widths:
        raise LopError(f"plan for FFN widths {plan.widths}, the model has {widths}")
