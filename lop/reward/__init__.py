"""How good is a plan? Everything in front of the decoder runs once, then only the decoder.

Pruning changes nothing before the first decoder layer, so images and prompts are embedded once
(`captured`). Questions about one picture are read behind one copy of it (`sharing`). The
neurons of each FFN are put in order of importance once; a plan is then a slice of the front of
each weight, a view, with nothing copied and really less to compute.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from lop.data.batching import restarting
from lop.data.matching import distinct
from lop.data.samples import accepted, check_answered
from lop.data.samples import fingerprint as samples_fingerprint
from lop.errors import LopError
from lop.importance import check_scores, ranked
from lop.models import fingerprints
from lop.models.quantized import Others, show_quantized
from lop.models.site import Site, attributes, restore, show_front
from lop.models.space import check_in_memory, decoder_layers, find_sites, space_of
from lop.plan import WHOLE, Bits, Plan
from lop.reward.captured import Below, Captured, capture, check_logits
from lop.reward.kinds import KINDS, LABELLED, Expected, divergence, expect, likelihood
from lop.reward.sharing import share

VERSION = 4  # of the numbers that this code gives: raised when a change of it changes them


@dataclass
class Part:
    """Some of the samples: their numbers (n,) and pictures (n,), and what the decoder is given.

    `first` (n,) is where each sample's accepted answers begin among all that are `asked`.
    """

    numbers: np.ndarray
    pictures: np.ndarray
    batches: list[Captured]
    first: np.ndarray
    asked: int
    batch_size: int  # samples in a batch, at most
    expected: list[list[Expected]] = field(default_factory=list)  # a batch, for the divergence


class Reward:
    """Calling it with a plan gives that plan's reward on a set of samples; higher is better.

    `kind` is `loglik` (mean log-likelihood of the right answer, in nats), `accuracy` (share of
    samples that greedy generation would answer exactly), or minus the divergence (KL, in nats a
    sample) from the dense model's own next tokens, which needs no answers: `kl` at the answers'
    tokens, or at all text of a sample without one, `kl_text` at all tokens of text. Where a sample
    accepts several answers, any of them is right, and the log-likelihood is that of their summed
    probability; the divergence is that at the first. With `mean_activation`, (d_l,) a layer, the
    lost neurons' mean output is restored as in `lop.pruning.prune`.

    The samples are dealt to `parts` of about equal size, all of a picture to one, by chance but
    always the same: a search may judge each plan by some of them (`values`).

    Use it as a context manager: inside, the units of the model's sites (those of `scope`) are
    reordered in place by descending score; on exit they are as before.

    Quantized weights have scales of the dtype `stored`, that of the checkpoint if the model is in
    another; default: the model's.

    Raises LopError for an unknown kind, scores that do not fit the model, or more parts than
    pictures.
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
        parts: int = 1,
        scope: str = "ffn",
        stored: torch.dtype | None = None,
    ) -> None:
        if kind not in KINDS:
            raise LopError(f"reward kind {kind!r}: expected one of {', '.join(KINDS)}")
        if kind in LABELLED:
            check_answered(samples, f"the reward {kind}", texts=kind == "loglik")
        self.kind = kind
        self.model = model
        self._dense = 0  # layers that are known to be whole
        self.sites = find_sites(model, scope)
        check_in_memory(self.sites)
        self.space = space_of(self.sites)
        self._stored, self._others = stored, Others(model, self.sites, stored)
        self._output_biases = [site.out.bias for site in self.sites]
        self._before = [attributes(site) for site in self.sites]
        self.model_fingerprint = fingerprints.fingerprint(model)
        self._made_of = (
            VERSION,
            self.model_fingerprint,
            fingerprints.how_asked(model, processor),
            samples_fingerprint(samples),
            kind,
        )
        self._rank(scores, mean_activation)
        check_logits(model, processor, samples)
        self._processor, self._samples = processor, samples
        self._dealt = _dealt(samples["image_id"], parts)
        self.parts: list[Part] = []
        restarting(batch_size, self._capture)

    def _capture(self, batch_size: int) -> None:
        """Make the parts, `batch_size` samples in a batch."""
        self.parts.clear()  # the same list in all that are `ranked`; first, as memory may be short
        asked = [_each_answer(self._samples.iloc[numbers]) for numbers in self._dealt]
        captures = [
            capture(self.model, self._processor, rows, batch_size, self.kind == "kl_text")
            for rows, _ in asked
        ]
        pictures = self._samples["image_id"].to_numpy()
        self.parts += [
            Part(numbers, pictures[numbers], batches, first, len(rows), min(batch_size, len(rows)))
            for numbers, batches, (rows, first) in zip(
                self._dealt, share(self.model, captures, batch_size), asked, strict=True
            )
        ]
        self._remember_below()

    def ranked(
        self, scores: Sequence[Tensor], mean_activation: Sequence[Tensor] | None = None
    ) -> Reward:
        """The same with neurons ranked by other `scores`, as the constructor takes them.

        Nothing is captured again. Use one of them at a time: they reorder the same model.
        """
        other = copy.copy(self)
        other._rank(scores, mean_activation)
        return other

    def _rank(self, scores: Sequence[Tensor], mean_activation: Sequence[Tensor] | None) -> None:
        check_scores(scores, self.space.units, "reward")
        self._orders = ranked(scores)
        self._means = _in_order(mean_activation, self._orders, self.sites)
        self.fingerprint = fingerprints.digest(*self._made_of, *self._orders, *(self._means or []))
        self._full: list[dict[str, Tensor]] = []
        self._known: dict[tuple[tuple[int, ...], Bits | None, int], np.ndarray] = {}

    def __enter__(self) -> Reward:
        for site, order in zip(self.sites, self._orders, strict=True):
            site.permute(order)
            self._full.append(site.tensors())
        return self

    def __exit__(self, *_: object) -> None:
        self._quantize_others(None)
        self._show(self.space.dense)
        self._full.clear()
        for site, order in zip(self.sites, self._orders, strict=True):
            site.permute(torch.argsort(order))
        for site, bias, before in zip(self.sites, self._output_biases, self._before, strict=True):
            site.out.bias = bias
            restore(site, before)

    def __call__(self, plan: Plan) -> float:
        """The plan's reward on all samples; each plan is evaluated once and remembered."""
        values = [self.values(plan, part) for part in range(len(self.parts))]
        return float(np.concatenate(values).mean())

    def values(self, plan: Plan, part: int) -> np.ndarray:
        """The plan's reward on each sample of one part, (n,), remembered likewise."""
        key = (plan.kept, plan.bits, part)
        if key not in self._known:
            if self.kind in LABELLED:
                values = dict(zip(("accuracy", "loglik"), self._answers(plan, part), strict=True))
                self._known[key] = values[self.kind]
            else:
                self._known[key] = -self._divergence(plan, part)
        return self._known[key]

    def by_sample(self, plan: Plan) -> np.ndarray:
        """The plan's reward on each sample, (N,), in the order of the samples."""
        found = np.empty(sum(len(part.numbers) for part in self.parts))
        for i, part in enumerate(self.parts):
            found[part.numbers] = self.values(plan, i)
        return found

    @contextmanager
    def dense_below(self, layer: int) -> Iterator[None]:
        """Inside, plans leave the layers below `layer` whole; those run once for each batch.

        Takes memory for one more hidden state a token.
        """
        self._dense = layer
        self._remember_below()
        try:
            yield
        finally:
            self._dense = 0
            self._remember_below()

    def _remember_below(self) -> None:
        layers = list(decoder_layers(self.model)[: self._dense])
        for batch in (batch for part in self.parts for batch in part.batches):
            batch.below = Below(layers) if layers else None

    def per_sample(self, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
        """For each sample: is the answer exactly right, and its log-likelihood; (N,) each."""
        found = np.empty((2, sum(len(part.numbers) for part in self.parts)), np.float32)
        for i, part in enumerate(self.parts):
            found[:, part.numbers] = self._answers(plan, i)
        return found[0], found[1]

    def _answers(self, plan: Plan, number: int) -> tuple[np.ndarray, np.ndarray]:
        """On each sample of a part: is it right, and its log-likelihood; (n,)."""

        def judge(part: Part) -> Tensor:
            self._cut(plan)
            return torch.cat([likelihood(self.model, batch) for batch in part.batches], 1)

        part, judged = self._judged(plan, number, judge)
        loglik, mistakes = _sums(part, judged)
        correct = np.logical_or.reduceat(mistakes == 0, part.first).astype(np.float32)
        return correct, np.logaddexp.reduceat(loglik, part.first)

    def _divergence(self, plan: Plan, number: int) -> np.ndarray:
        """On each sample of a part: the divergence from the dense model, in nats; (n,)."""

        def judge(part: Part) -> Tensor:
            if not part.expected:
                self._cut(self.space.dense)
                whole = self.parts[number]  # captured again, where other weights were quantized
                whole.expected = [expect(self.model, batch) for batch in whole.batches]
            self._cut(plan)
            part = self.parts[number]
            pairs = zip(part.batches, part.expected, strict=True)
            return torch.cat([divergence(self.model, *pair) for pair in pairs])[None]

        part, judged = self._judged(plan, number, judge)
        return _sums(part, judged)[0][part.first]

    def _judged(
        self, plan: Plan, number: int, judge: Callable[[Part], Tensor]
    ) -> tuple[Part, Tensor]:
        """A part, and what `judge` makes of it at a plan. Where memory is short, all parts are made
        again in batches of half as many samples."""
        self._quantize_others(plan.bits)

        def judged(batch_size: int) -> Tensor:
            if not self.parts or batch_size < self.parts[number].batch_size:
                self._capture(batch_size)
            return judge(self.parts[number])

        found = restarting(self.parts[number].batch_size, judged)
        return self.parts[number], found

    def _cut(self, plan: Plan) -> None:
        """Cut the model to a plan; LopError for another model's, or outside of `with`."""
        if not plan.space.fits(self.space):
            raise LopError(f"plan for units {plan.space.units}, the model has {self.space.units}")
        if not self._full:
            raise LopError("a Reward works inside its `with` block only")
        below = sum(site.layer < self._dense for site in self.sites)
        bits = plan.bits.sites if plan.bits else (WHOLE,) * len(plan.kept)
        if (
            plan.kept[:below] != self.space.units[:below]
            or min(bits[:below], default=WHOLE) < WHOLE
        ):
            raise LopError(f"plan {plan.kept}: expected whole layers below {self._dense}")
        self._quantize_others(plan.bits)
        self._show(plan)

    def _quantize_others(self, bits: Bits | None) -> None:
        """Have all but the sites at a plan's bits; what comes before the decoder runs again where
        it has changed."""
        if not self._others.show(bits):
            return
        known = [part.expected for part in self.parts]  # of the unpruned model, whatever the bits
        restarting(self.parts[0].batch_size, self._capture)
        for part, expected in zip(self.parts, known, strict=True):
            if len(expected) == len(part.batches):
                part.expected = expected

    def _show(self, plan: Plan) -> None:
        kept = plan.kept
        for site, k, full, before in zip(self.sites, kept, self._full, self._before, strict=True):
            restore(site, before)
            show_front(site, full, k)
        if plan.bits:
            for site, bits in zip(self.sites, plan.bits.sites, strict=True):
                show_quantized(site, bits, plan.bits.group, self._stored)
        for i, means in enumerate(self._means or []):
            site, first = self.sites[i], kept[i] * self.sites[i].block
            weight = self._full[i][site.slices[-1].tensor]
            lost = weight[:, first:].float() @ means[first:]
            bias = self._output_biases[i]
            lost = lost.to(weight) + (0 if bias is None else bias)
            site.out.bias = nn.Parameter(lost, requires_grad=False)


def _dealt(pictures: pd.Series, parts: int) -> list[np.ndarray]:
    """Numbers of samples by part, ascending; pictures in a random order, each to the least part."""
    names, of = np.unique(pictures.to_numpy(str), return_inverse=True)
    if not 0 < parts <= len(names):
        raise LopError(
            f"{parts} parts of the reward samples: expected 1 to {len(names)}, as many "
            "as there are pictures or documents"
        )
    counts, sizes = np.bincount(of), np.zeros(parts, int)
    dealt = np.empty(len(names), int)
    for picture in np.random.default_rng(0).permutation(len(names)):
        dealt[picture] = np.argmin(sizes)
        sizes[dealt[picture]] += counts[picture]
    return [np.flatnonzero(dealt[of] == part) for part in range(parts)]


def _sums(part: Part, judged: Tensor) -> np.ndarray:
    """What places are worth, (k, P), summed by what was asked; (k, asked)."""
    owners = torch.cat([batch.owners for batch in part.batches]).cpu()
    judged = judged.cpu()
    return torch.zeros(len(judged), part.asked).index_add(1, owners, judged).numpy()


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
    means: Sequence[Tensor] | None, orders: Sequence[Tensor], sites: Sequence[Site]
) -> list[Tensor] | None:
    """Mean activations in the order of the scores, on each layer's device."""
    if means is None:
        return None
    check_scores(means, [site.units * site.block for site in sites], "mean_activation")
    ordered = [mean[site.columns(o)] for mean, o, site in zip(means, orders, sites, strict=True)]
    return [
        mean.float().to(site.out.weight.device) for mean, site in zip(ordered, sites, strict=True)
    ]
