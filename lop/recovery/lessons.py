"""Training samples as decoder inputs, with the unpruned model's hidden states as targets."""

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

# fields of a batch with one entry for each position
PLACES = ("rows", "columns", "tokens", "owners", "answers")


@dataclass
class Lesson:
    """A batch, and the unpruned model's hidden states (P, H) at its positions: the last ones and,
    if requested, those after each layer."""

    batch: Captured
    hidden: Tensor
    layers: dict[int, Tensor]

    def some(self, count: int, rng: np.random.Generator) -> Lesson:
        """The same with `count` of its positions, drawn at random; all if it has no more."""
        if len(self.hidden) <= count:
            return self
        chosen = torch.from_numpy(np.sort(rng.choice(len(self.hidden), count, replace=False)))
        at = {name: getattr(self.batch, name)[chosen] for name in PLACES}
        layers = {i: state[chosen] for i, state in self.layers.items()}
        return Lesson(replace(self.batch, **at), self.hidden[chosen], layers)

    def to(self, device: torch.device) -> Lesson:
        """A copy on a device."""
        layers = {i: state.to(device) for i, state in self.layers.items()}
        return Lesson(_moved(self.batch, device), self.hidden.to(device), layers)


class Lessons:
    """Training samples in fixed parts of about `size`; samples of one picture stay together if
    possible.

    Everything before the decoder is the same at every budget and runs once. So does the unpruned
    model; its memory is then free. The CPU's memory holds one embedding for each token, one hidden
    state for each token of text and, if `layered`, one more for each layer.
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
        parts = progress(_parts(samples["image_id"], size, seed), "reading samples", unit="batch")
        self.parts: list[list[Lesson]] = []
        decoder = Decoder()
        with student.dense():
            for part in parts:
                captures = capture(model, processor, samples.iloc[part], size, everywhere=True)
                (shared,) = share(model, [captures], size, decoder)
                self.parts.append([_taught(student, batch, layered) for batch in shared])

    def at(self, number: int, seed: int) -> list[Lesson]:
        """The `number`-th part of the training: all parts in random order, in each epoch
        another."""
        epoch, index = divmod(number, len(self.parts))
        order = np.random.default_rng((seed, epoch)).permutation(len(self.parts))
        return self.parts[order[index]]


def _taught(student: Student, batch: Captured, layered: bool) -> Lesson:
    """A batch with the unpruned model's hidden states, in the CPU's memory."""
    there = next(student.parameters()).device
    hidden, layers = student(_moved(batch, there), layered)
    return Lesson(batch, hidden, layers).to(torch.device("cpu"))


def _parts(pictures: pd.Series, size: int, seed: int) -> list[np.ndarray]:
    """Sample numbers by part: pictures in random order, with their samples together."""
    names, of = np.unique(pictures.to_numpy(str), return_inverse=True)
    rank = np.random.default_rng(seed).permutation(len(names))
    order = np.argsort(rank[of], kind="stable")
    return np.array_split(order, max(1, round(len(order) / size)))


def _moved(batch: Captured, device: torch.device) -> Captured:
    """A batch on a device, with tensors that autograd accepts."""
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
