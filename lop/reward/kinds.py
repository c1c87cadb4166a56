"""What a plan's next-token distributions are worth, place by place.

A place is a token of a sample and the one that should come next. Log-likelihood and accuracy need
the right answers; the divergence from the dense model's own distributions needs none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lop.reward.captured import Captured, hidden_at, logits_of

# loglik, accuracy and kl are about the answers' tokens, kl_text is about all tokens of text
KINDS = ("loglik", "accuracy", "kl", "kl_text")
LABELLED = ("loglik", "accuracy")  # those that need right answers
LIKELIEST = 1024  # tokens of a dense distribution that are kept one by one
ROWS = 16  # whose softmax is taken at once, so that it stays in a processor's cache
LOGITS = 2**26  # at most so many at once: 256 MB in float32


@dataclass
class Expected:
    """The dense model's distributions at some places: its likeliest tokens, and all others as one.

    `tokens` (P, K), `loglik` (P, K), `rest` (P,): the log-probability of all other tokens together,
    -inf where there are none.
    """

    tokens: Tensor
    loglik: Tensor
    rest: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Expected:
        """From the dense model's logits (P, V)."""
        top, tokens = logits.topk(min(LIKELIEST, logits.shape[1]), dim=1)
        loglik = top - _total(logits)[:, None]
        whole = tokens.shape[1] == logits.shape[1]
        rest = torch.full_like(loglik[:, 0], -torch.inf) if whole else _others(loglik)
        return cls(tokens.int(), loglik, rest)

    def divergence(self, logits: Tensor, total: Tensor) -> Tensor:
        """KL of the dense distributions from those of `logits` (P, V), normalised by `total` (P,).

        In nats, (P,). It is exact for a vocabulary of up to `LIKELIEST` tokens; the others count as
        one token in larger ones, which can only make it smaller.
        """
        found = logits.gather(1, self.tokens.long()) - total[:, None]
        divergence = (self.loglik.exp() * (self.loglik - found)).sum(1)
        if self.rest.isneginf().all():
            return divergence
        return divergence + self.rest.exp() * (self.rest - _others(found))

    def part(self, start: int, end: int) -> Expected:
        """The distributions at places `start` to `end`."""
        return Expected(self.tokens[start:end], self.loglik[start:end], self.rest[start:end])

    @classmethod
    def joined(cls, parts: list[Expected]) -> Expected:
        """Those of all parts, in order."""
        columns = zip(*((p.tokens, p.loglik, p.rest) for p in parts), strict=True)
        return cls(*(torch.cat(column) for column in columns))


def _total(logits: Tensor) -> Tensor:
    """Logsumexp of logits (P, V), by log_softmax, which is several times faster on CPUs."""
    return logits[:, 0] - torch.cat([rows.log_softmax(1)[:, 0] for rows in logits.split(ROWS)])


def _others(loglik: Tensor) -> Tensor:
    """Log-probability of the tokens that `loglik` (P, K) leaves out, bounded away from -inf."""
    return torch.log((1 - loglik.exp().sum(1)).clamp_min(1e-7))


def _logits(model: PreTrainedModel, batch: Captured) -> Iterator[tuple[int, int, Tensor]]:
    """Logits of a batch's places, as many at once as memory is meant for: start, end, (p, V)."""
    hidden = hidden_at(model, batch)
    at_once = max(1, LOGITS // model.get_output_embeddings().weight.shape[0])
    for start in range(0, len(hidden), at_once):
        end = min(start + at_once, len(hidden))
        yield start, end, logits_of(model, hidden[start:end])


def expect(model: PreTrainedModel, batch: Captured) -> Expected:
    """The model's own distributions at a batch's places."""
    return Expected.joined([Expected.of(logits) for _, _, logits in _logits(model, batch)])


def judge(model: PreTrainedModel, batch: Captured, expected: Expected | None) -> Tensor:
    """At each place of a batch: log-likelihood of the token, 1 for a mistake, and the divergence.

    (3, P); the divergence is 0 without `expected`.
    """
    judged = []
    for start, end, logits in _logits(model, batch):
        tokens, total = batch.tokens[start:end].to(logits.device), _total(logits)
        loglik = logits.gather(1, tokens[:, None])[:, 0] - total
        wrong = (logits.argmax(1) != tokens).float()
        divergence = torch.zeros_like(total)
        if expected:
            divergence = expected.part(start, end).divergence(logits, total)
        judged.append(torch.stack([loglik, wrong, divergence]))
    return torch.cat(judged, 1)
