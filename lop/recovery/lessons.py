"""The training samples as the decoder is given them, with what the unpruned model makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from lop.progress import progress
from lop.recovery.student import Student
from lop.reward.captured import Captured, capture, check_logits
from lop.reward.sharing import Decoder, share

PLACES = ("rows", "columns", "tokens", "owners", "answers")  # what a batch has one of a place


@dataclass
class Lesson:
    """A batch, and the unpruned model's hidden states (P, H) at its places: the last, and by layer
    those after each, where they are wanted."""

    batch: Captured
    hidden: Tensor
    layers: dict[int, Tensor]

    def some(self, count: int, rng: np.random.Generator) -> Lesson:
        """The same with so many of its places, drawn by chance; all where it has no more."""
        if len(self.hidden) <= count:
            return self
        chosen = torch.from_numpy(np.sort(rng.choice(len(self.hidden), count, replace=False)))
        at = {name: getattr(self.batch, name)[chosen] for name in PLACES}
        layers = {i: state[chosen] for i, state in self.layers.items()}
        return Lesson(replace(self.batch, **at), self.hidden[chosen], layers)

    def to(self, device: torch.device) -> Lesson:
        """The same on a device."""
        layers = {i: state.to(device) for i, state in self.layers.items()}
        return Lesson(_moved(self.batch, device), self.hidden.to(device), layers)


class Lessons:
    """Training samples in fixed parts of about `size`, whole pictures where that is possible.

    All that comes before the decoder is the same at every budget: it runs once, and so does the
    unpruned model, whose memory is then free. Kept are, in the CPU's memory, one embedding a token
    and one hidden state a token of text, and if `layered` one more for each layer.
    """

    def __init__(
        self,
        student: Student,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        samples: pd.DataFrame,
        size: int,
        seed: int,
        layered: bool = False,
    ) -> None:
        check_logits(model, processor, samples)
        dealt = progress(_dealt(samples["image_id"], size, seed), "reading samples", unit="batch")
        self.parts: list[list[Lesson]] = []
        decoder = Decoder()
        with student.dense():
            for part in dealt:
                captures = capture(model, processor, samples.iloc[part], size, everywhere=True)
                (shared,) = share(model, [captures], size, decoder)
                self.parts.append([_taught(student, batch, layered) for batch in shared])

    def at(self, number: int, seed: int) -> list[Lesson]:
        """The part that is read as the `number`-th: all of them in turn, by chance, again and
        again."""
        turn, place = divmod(number, len(self.parts))
        order = np.random.default_rng((seed, turn)).permutation(len(self.parts))
        return self.parts[order[place]]


def _taught(student: Student, batch: Captured, layered: bool) -> Lesson:
    """A batch with what the unpruned model makes of it, in the CPU's memory."""
    there = next(student.parameters()).device
    hidden, layers = student(_moved(batch, there), layered)
    return Lesson(batch, hidden, layers).to(torch.device("cpu"))


def _dealt(pictures: pd.Series, size: int, seed: int) -> list[np.ndarray]:
    """Numbers of samples by part: pictures in a random order, whose samples stay together."""
    names, of = np.unique(pictures.to_numpy(str), return_inverse=True)
    rank = np.random.default_rng(seed).permutation(len(names))
    order = np.argsort(rank[of], kind="stable")
    return np.array_split(order, max(1, round(len(order) / size)))


def _moved(batch: Captured, device: torch.device) -> Captured:
    """A batch on a device, of tensors that gradients may go through."""
    given = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return replace(batch, **{name: _tensors(value, device) for name, value in given.items()})


def _tensors(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return (value.clone() if value.is_inference() else value).to(device)
    if isinstance(value, Mapping):
        return {name: _tensors(each, device) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_tensors(each, device) for each in value)
    return value
