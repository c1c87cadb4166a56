"""The student's loss: distance from the unpruned model, and cross-entropy of the right answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from lop.recovery.lessons import Lesson
from lop.reward.captured import at_once, logits_of


@dataclass(frozen=True)
class Loss:
    """In nats a token: the KL divergence from the unpruned model at answers and at other text, and
    the cross-entropy of the answers. `hidden` is the relative squared distance of hidden states."""

    answers: Tensor
    text: Tensor
    right: Tensor
    hidden: Tensor


def loss_of(
    model: PreTrainedModel, lesson: Lesson, hidden: Tensor, layers: Mapping[int, Tensor]
) -> Loss:
    """The loss of a student's hidden states (P, H) at a lesson's positions: the last ones, and by
    layer.

    KL(unpruned ‖ student) over the whole vocabulary (Hinton et al., arXiv:1503.02531, at
    temperature 1).
    """
    size = at_once(model)
    parts = [part.split(size) for part in (hidden, lesson.hidden.to(hidden), lesson.batch.tokens)]
    judged = []
    for part in zip(*parts, strict=True):
        # logits of a large vocabulary are recomputed in the backward pass
        once = len(parts[0]) == 1
        judged.append(
            _judged(model, *part)
            if once
            else checkpoint(_judged, model, *part, use_reentrant=False)
        )
    divergence, surprise = torch.cat(judged, 1)
    answers = lesson.batch.answers
    apart = [_distance(state, lesson.layers[i]) for i, state in layers.items()]
    return Loss(
        _mean(divergence[answers]),
        _mean(divergence[~answers]),
        _mean(surprise[answers]),
        _mean(torch.stack(apart) if apart else hidden.new_zeros(0)),
    )


def _distance(state: Tensor, taught: Tensor) -> Tensor:
    """Squared distance of hidden states (P, H), relative to the squared norm of `taught`."""
    return (state - taught).float().square().sum() / taught.float().square().sum()


def _judged(model: PreTrainedModel, hidden: Tensor, taught: Tensor, tokens: Tensor) -> Tensor:
    """At each position: divergence, and negative log-likelihood of the right next token; (2, P)."""
    with torch.no_grad():
        expected = logits_of(model, taught).log_softmax(1)
    found = logits_of(model, hidden).log_softmax(1)
    divergence = (expected.exp() * (expected - found)).sum(1)
    return torch.stack([divergence, -found.gather(1, tokens[:, None])[:, 0]])


def _mean(values: Tensor) -> Tensor:
    """The mean; 0 if there are no values."""
    return values.sum() / max(1, len(values))
