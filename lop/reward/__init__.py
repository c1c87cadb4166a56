"""How good is a plan? Everything in front of the decoder runs once, then only the decoder.

Pruning changes nothing before the first decoder layer, so images and prompts are embedded once
(`captured`). Questions about one picture are read behind one copy of it (`sharing`). The
neurons of each FFN are put in order of importance once; a plan is then a slice of the front of
each weight, a view, with nothing copied and really less to compute.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from lop.errors import LopError
from lop.importance import check_scores
from lop.models import fingerprints
from lop.models.ffn import FFN, check_in_memory, find_ffns
from lop.plan import Plan
from lop.reward.captured import Captured, capture, hidden_at, logits_of
from lop.reward.sharing import share
from lop.tasks.answers import distinct
from lop.tasks.samples import accepted, check_answered
from lop.tasks.samples import fingerprint as samples_fingerprint

VERSION = 2  # of the numbers that this code gives: raised when a change of it changes them
KINDS = ("loglik", "accuracy")
DOWN = "down"  # beside the names of an FFN's input tensors


class Reward:
    """Calling it with a plan gives that plan's reward on a set of samples; higher is better.

    `kind` is `loglik` (mean log-likelihood of the right answer, in nats) or `accuracy` (share of
    samples that greedy generation would answer exactly). Where a sample accepts several answers,
    any of them is right, and the log-likelihood is that of their summed probability. With
    `mean_activation`, (d_l,) a layer, the lost neurons' mean output is restored as in
    `lop.pruning.prune`.

    Use it as a context manager: inside, the model's FFN neurons are reordered in place by
    descending score; on exit they are as before.

    Raises LopError for an unknown kind, or scores that do not fit the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        samples: pd.DataFrame,
        scores: Sequence[Tensor],
        kind: str = "loglik",
        batch_size: int = 100,
        mean_activation: Sequence[Tensor] | None = None,
    ) -> None:
        if kind not in KINDS:
            raise LopError(f"reward kind {kind!r}: expected one of {', '.join(KINDS)}")
        check_answered(samples, f"the reward {kind}", texts=kind == "loglik")
        self.kind = kind
        self.model = model
        self.ffns = find_ffns(model)
        check_in_memory(self.ffns)
        self.widths = tuple(ffn.width for ffn in self.ffns)
        check_scores(scores, self.widths, "reward")
        self._orders = [torch.argsort(s, descending=True, stable=True) for s in scores]
        self._means = _in_order(mean_activation, self._orders, self.ffns)
        self._output_biases = [ffn.down.bias for ffn in self.ffns]
        self.model_fingerprint = fingerprints.fingerprint(model)
        self.fingerprint = fingerprints.digest(
            VERSION,
            self.model_fingerprint,
            fingerprints.how_asked(model, processor),
            samples_fingerprint(samples),
            kind,
            *self._orders,
            *(self._means or []),
        )
        asked, self._first = _each_answer(samples)
        self._asked = len(asked)
        captures = capture(model, processor, asked, batch_size)
        self.batches = share(model, captures, batch_size)
        self._full: list[dict[str, Tensor]] = []
        self._known: dict[tuple[int, ...], float] = {}

    def __enter__(self) -> Reward:
        for ffn, order in zip(self.ffns, self._orders, strict=True):
            _permute(ffn, order)
            self._full.append(ffn.input_tensors() | {DOWN: ffn.down.weight.detach()})
        return self

    def __exit__(self, *_: object) -> None:
        self._set_widths(self.widths)
        self._full.clear()
        for ffn, order, bias in zip(self.ffns, self._orders, self._output_biases, strict=True):
            _permute(ffn, torch.argsort(order))
            ffn.down.bias = bias

    def __call__(self, plan: Plan) -> float:
        """The plan's reward; each plan is evaluated once and remembered."""
        if plan.kept not in self._known:
            correct, loglik = self.per_sample(plan)
            values = correct if self.kind == "accuracy" else loglik
            self._known[plan.kept] = float(values.mean())
        return self._known[plan.kept]

    @torch.inference_mode()
    def per_sample(self, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
        """For each sample: is the answer exactly right, and its log-likelihood; (N,) each."""
        if plan.widths != self.widths:
            raise LopError(f"plan for FFN widths {plan.widths}, the model has {self.widths}")
        if not self._full:
            raise LopError("a Reward works inside its `with` block only")
        self._set_widths(plan.kept)
        scored = torch.cat([self._score(batch) for batch in self.batches], 1).cpu()
        owners = torch.cat([batch.owners for batch in self.batches]).cpu()
        loglik, mistakes = torch.zeros(2, self._asked).index_add(1, owners, scored).numpy()
        correct = np.logical_or.reduceat(mistakes == 0, self._first)
        return correct.astype(np.float32), np.logaddexp.reduceat(loglik, self._first)

    def _score(self, batch: Captured) -> Tensor:
        """Of the tokens at a batch's places: log-likelihood, and 1 for a mistake; (2, P)."""
        logits = logits_of(self.model, hidden_at(self.model, batch))
        tokens = batch.tokens.to(logits.device)
        loglik = torch.log_softmax(logits, -1).gather(1, tokens[:, None])[:, 0]
        wrong = (logits.argmax(-1) != tokens).float()
        return torch.stack([loglik, wrong])

    def _set_widths(self, kept: Sequence[int]) -> None:
        for ffn, k, full in zip(self.ffns, kept, self._full, strict=True):
            ffn.down.weight = nn.Parameter(full[DOWN][:, :k], requires_grad=False)
            for name, linear in ffn.inputs.items():
                for kind in [kind for kind, _ in linear.named_parameters()]:
                    front = _front(full[f"{name}.{kind}"], k, ffn.fused)
                    setattr(linear, kind, nn.Parameter(front, requires_grad=False))
        for i, means in enumerate(self._means or []):
            lost = self._full[i][DOWN][:, kept[i] :].float() @ means[kept[i] :]
            bias = self._output_biases[i]
            lost = lost.to(self.ffns[i].down.weight) + (0 if bias is None else bias)
            self.ffns[i].down.bias = nn.Parameter(lost, requires_grad=False)


def _each_answer(samples: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """A row for each accepted answer, and where each sample's rows begin."""
    answers: list[list[str] | list[None]] = [
        distinct(accepted(row)) or [None] for row in samples.to_dict("records")
    ]
    counts = np.array([len(of) for of in answers])
    rows = samples.iloc[np.repeat(np.arange(len(samples)), counts)]
    rows = rows.assign(answer=[answer for of in answers for answer in of])
    return rows, np.cumsum(counts) - counts


def _in_order(
    means: Sequence[Tensor] | None, orders: Sequence[Tensor], ffns: Sequence[FFN]
) -> list[Tensor] | None:
    """Mean activations in the order of the scores, on each layer's device."""
    if means is None:
        return None
    check_scores(means, [ffn.width for ffn in ffns], "mean_activation")
    triples = zip(means, orders, ffns, strict=True)
    return [mean[order].float().to(ffn.down.weight.device) for mean, order, ffn in triples]


def _front(tensor: Tensor, k: int, fused: bool) -> Tensor:
    """An input map's rows of the first k neurons: a view, or a copy where two maps are fused."""
    if not fused or len(tensor) == 2 * k:
        return tensor if fused else tensor[:k]
    return torch.cat([half[:k] for half in tensor.chunk(2)])


@torch.no_grad()
def _permute(ffn: FFN, order: Tensor) -> None:
    """Reorder the neurons of an FFN in place; what it computes stays the same."""
    order = order.to(ffn.down.weight.device)
    ffn.down.weight.copy_(ffn.down.weight[:, order])
    for tensor in ffn.input_tensors().values():
        tensor.copy_(tensor[ffn.rows(order)])
