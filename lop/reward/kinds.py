"""Rewards from a plan's next-token distributions, for each predicted token.

A position of a sample is a token whose next token is predicted. Log-likelihood and accuracy need
the right answers; the divergence from the dense model's own distributions needs none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lop.reward.captured import CLOSE, Captured, at_once, hidden_at, logits_of

# loglik, accuracy and kl use the answers' tokens, kl_text uses all tokens of text
KINDS = ("loglik", "accuracy", "kl", "kl_text")
LABELLED = ("loglik", "accuracy")  # kinds that need right answers
ROWS = 16  # rows in one softmax, so that they fit in a processor's cache
LARGE = 8192  # vocabularies of more tokens are compared on the likely tokens only
LIKELIEST = 32  # likely tokens of each position, …
PLACES = 512  # … for this many positions together


@dataclass
class Expected:
    """The dense model's distributions at positions `start` to `end` of a batch.

    `loglik` (p, U): of `tokens` (U,), or of the whole vocabulary if that is None; the probabilities
    sum to 1. `narrow`: whether the model's output map can be reduced to these tokens.
    """

    start: int
    end: int
    tokens: Tensor | None
    loglik: Tensor
    narrow: bool = False

    def divergence(self, model: PreTrainedModel, hidden: Tensor) -> Tensor:
        """KL(these distributions ‖ the model's at last hidden states (p, H)); (p,)."""
        if self.tokens is None:
            logits = logits_of(model, hidden)
        elif self.narrow:
            logits = _narrow_logits(model, hidden, self.tokens)
        else:
            logits = logits_of(model, hidden)[:, self.tokens]
        return (self.loglik.exp() * (self.loglik - logits.log_softmax(1))).sum(1)


@torch.inference_mode()
def expect(model: PreTrainedModel, batch: Captured) -> list[Expected]:
    """The model's distributions at a batch's positions, in parts of `PLACES`.

    A vocabulary of more than `LARGE` tokens is reduced to the tokens that are among the `LIKELIEST`
    at one of the positions; their probabilities are scaled to sum to 1. With a vocabulary of
    262,144 tokens this ranks plans as the whole vocabulary does, in a fifth of the time.
    """
    found, hidden = [], hidden_at(model, batch)
    for start in range(0, len(hidden), PLACES):
        states = hidden[start : start + PLACES]
        parts = [logits_of(model, some) for some in states.split(at_once(model))]
        end = start + len(states)
        if parts[0].shape[1] <= LARGE:
            found.append(Expected(start, end, None, torch.cat(parts).log_softmax(1)))
            continue
        likely = torch.cat([part.topk(LIKELIEST, dim=1).indices.flatten() for part in parts])
        tokens = likely.unique()
        logits = torch.cat([part[:, tokens] for part in parts])
        narrow = _can_narrow(model, states, tokens, logits)
        found.append(Expected(start, end, tokens, logits.log_softmax(1), narrow))
    return found


@torch.inference_mode()
def divergence(model: PreTrainedModel, batch: Captured, expected: list[Expected]) -> Tensor:
    """KL(expected ‖ model) at each position of a batch, in nats; (P,)."""
    hidden = hidden_at(model, batch)
    return torch.cat([each.divergence(model, hidden[each.start : each.end]) for each in expected])


@torch.inference_mode()
def likelihood(model: PreTrainedModel, batch: Captured) -> Tensor:
    """At each position of a batch: log-likelihood of the next token, and 1 if the model's most
    likely token is another; (2, P)."""
    judged = []
    for hidden, tokens in zip(
        (states := hidden_at(model, batch)).split(size := at_once(model)),
        batch.tokens.to(states.device).split(size),
        strict=True,
    ):
        logits = logits_of(model, hidden)
        tokens = tokens.to(logits.device)
        loglik = logits.gather(1, tokens[:, None])[:, 0] - _total(logits)
        judged.append(torch.stack([loglik, (logits.argmax(1) != tokens).float()]))
    return torch.cat(judged, 1)


def _total(logits: Tensor) -> Tensor:
    """Logsumexp of logits (P, V), computed with log_softmax: several times faster on CPUs."""
    return logits[:, 0] - torch.cat([rows.log_softmax(1)[:, 0] for rows in logits.split(ROWS)])


def _can_narrow(model: PreTrainedModel, hidden: Tensor, tokens: Tensor, logits: Tensor) -> bool:
    """Whether a reduced output map gives these logits (p, U); some models process logits
    further."""
    head = model.get_output_embeddings()
    if head is None or hasattr(head, "_hf_hook") or any(p.is_meta for p in head.parameters()):
        return False
    try:
        found = _narrow_logits(model, hidden, tokens)
    except (RuntimeError, IndexError):
        return False
    return bool((found - logits).norm() <= CLOSE.get(model.dtype, 3e-2) * logits.norm())


def _narrow_logits(model: PreTrainedModel, hidden: Tensor, tokens: Tensor) -> Tensor:
    with _narrowed(model.get_output_embeddings(), tokens):
        return logits_of(model, hidden)


@contextmanager
def _narrowed(head: nn.Module, tokens: Tensor) -> Iterator[None]:
    """Reduce an output map to `tokens` (U,) in the block."""
    whole = dict(head.named_parameters(recurse=False))
    for name, parameter in whole.items():
        setattr(head, name, nn.Parameter(parameter.detach()[tokens], requires_grad=False))
    try:
        yield
    finally:
        for name, parameter in whole.items():
            setattr(head, name, parameter)
