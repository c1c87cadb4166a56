"""The decoder's inputs for a set of samples, computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from lop.data.batching import Fitting
from lop.data.encoding import IGNORE, Batch, encode
from lop.data.samples import letters, pixels
from lop.errors import LopError
from lop.models.vision import seeing_once

LOGITS = 2**26  # most logits at once: 256 MB in float32
CLOSE = {torch.float32: 1e-4}  # relative difference due to rounding; larger for other types


class Below:
    """The decoder's first layers in their present state: they run once, and their output is cached.

    An instance is for one batch.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers, self._output = layers, None

    @contextmanager
    def skipped(self) -> Iterator[None]:
        """In the block, the layers return the cached output; the first time they run and fill the
        cache."""
        if self._output is None:
            hook = self.layers[-1].register_forward_hook(self._keep)
            try:
                yield
            finally:
                hook.remove()
            return
        own = [vars(layer).get("forward") for layer in self.layers]  # set by accelerate, if any
        for layer in self.layers:
            layer.forward = lambda *args, **kwargs: _copied(self._output)
        try:
            yield
        finally:
            for layer, forward in zip(self.layers, own, strict=True):
                del layer.forward
                if forward is not None:
                    layer.forward = forward

    def _keep(self, layer: nn.Module, args: Any, output: Any) -> None:
        self._output = _copied(output)


def _copied(output: Any) -> Any:
    """A copy of a layer's output, so that later in-place operations do not change it."""
    if isinstance(output, tuple):
        return tuple(map(_copied, output))
    return output.clone() if isinstance(output, Tensor) else output


@dataclass
class Captured:
    """A batch of decoder inputs, and the next tokens to predict at some positions.

    `rows` and `columns` are the positions (P,), `tokens` the right next tokens, `owners` the
    numbers of their samples, and `answers` whether a token belongs to an answer or a text, not to a
    question. The layers `below` are not run again.
    """

    decoder_inputs: dict[str, Any]
    rows: Tensor
    columns: Tensor
    tokens: Tensor
    owners: Tensor
    answers: Tensor
    below: Below | None = field(default=None, kw_only=True)

    def inputs(self) -> dict[str, Any]:
        """Keyword arguments for a call of the decoder."""
        return self.decoder_inputs


def hidden_at(model: PreTrainedModel, batch: Captured) -> Tensor:
    """The decoder's last hidden states (P, H) at a batch's positions."""
    with batch.below.skipped() if batch.below else nullcontext():
        hidden: Tensor = model.get_decoder()(**batch.inputs()).last_hidden_state
    # with a device map they may be on another device than the inputs
    return hidden[batch.rows.to(hidden.device), batch.columns.to(hidden.device)]


def logits_of(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits (P, vocab) of last hidden states (P, H), by the model's own forward.

    This includes output embeddings and any scaling or capping of logits, for any architecture: only
    the call of the base model is replaced by these hidden states.
    """
    inner: Any = model.base_model
    if inner is model:
        raise LopError(f"{type(model).__name__}: has no base model below its output map")
    own = vars(inner).get("forward")  # set by accelerate, if the model is on several devices
    inner.forward = lambda *args, **kwargs: _Decoded(hidden[None])
    try:
        ids = torch.zeros((1, len(hidden)), dtype=torch.long, device=hidden.device)
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    finally:
        del inner.forward
        if own is not None:
            inner.forward = own
    return logits[0].float()


def at_once(model: PreTrainedModel) -> int:
    """The number of positions whose logits are in memory at once."""
    return max(1, LOGITS // model.config.get_text_config().vocab_size)


@dataclass
class _Decoded:
    """The output of a base model: hidden states, and None for every other attribute."""

    last_hidden_state: Tensor

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@torch.inference_mode()
def check_logits(model: PreTrainedModel, processor: ProcessorMixin, samples: pd.DataFrame) -> None:
    """Raise LopError if `logits_of` captured inputs differ from the logits of the model's forward.

    It checks one sample, the shortest.
    """
    batch = next(encode(samples.iloc[_by_length(samples)[:1]], model, processor, 1))
    captured = _captured(model, batch, torch.zeros(len(batch.targets)))
    columns = captured.columns
    last = batch.targets.shape[1] - int(columns.min())
    expected = model(**batch.inputs, use_cache=False, logits_to_keep=last).logits.float()
    at = captured.rows.to(expected.device), (columns - columns.min()).to(expected.device)
    found = logits_of(model, hidden_at(model, captured)).to(expected.device)
    difference = (found - expected[at]).norm() / expected[at].norm().clamp_min(1e-6)
    if not difference < CLOSE.get(model.dtype, 3e-2):
        raise LopError(
            f"{type(model).__name__}: its logits depend on more than its decoder's last hidden "
            f"states (relative difference {difference:.1e}); lop cannot compute rewards of it"
        )


class _Reached(Exception):
    """Raised by the hook when the decoder's inputs are known, so that the decoder does not run."""


@dataclass
class Capture:
    """A captured batch, one sample in each row: token ids (B, T), the samples' lengths, and their
    pictures as stored (B each)."""

    batch: Captured
    pictures: list[tuple[bytes, ...]]
    ids: Tensor
    lengths: list[int]


@torch.inference_mode()
def capture(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    samples: pd.DataFrame,
    batch_size: int,
    everywhere: bool = False,
) -> list[Capture]:
    """Run everything before the decoder once, and keep the decoder's inputs.

    The positions are those of the answers' tokens, or of all tokens of text (`everywhere`).
    Embeddings, position ids and masks are kept: about samples · tokens · hidden numbers. The vision
    tower runs once for each picture. Batches that do not fit in memory are halved.
    """
    order = _by_length(samples)
    stored = [tuple(image["bytes"] for image in images) for images in samples["images"]]
    captures: list[Capture] = []
    left, fitting = torch.as_tensor(order), Fitting()

    def keep(batch: Batch) -> None:
        nonlocal left
        numbers, after = left.tensor_split([len(batch.targets)])
        pictures = [stored[k] for k in numbers.tolist()]
        lengths = batch.inputs["attention_mask"].sum(1).tolist()
        captured = _captured(model, batch, numbers, everywhere)
        captures.append(Capture(captured, pictures, batch.inputs["input_ids"], lengths))
        left = after

    with seeing_once(model):
        for batch in encode(samples.iloc[order], model, processor, batch_size):
            batch.in_parts(fitting, keep)
    return captures


def _captured(
    model: PreTrainedModel, batch: Batch, numbers: Tensor, everywhere: bool = False
) -> Captured:
    """The decoder's inputs for a batch of samples with these numbers (B,).

    A sample without an answer has all its tokens of text as positions.
    """
    unanswered = (batch.targets == IGNORE).all(1, keepdim=True)
    targets = torch.where(unanswered | everywhere, batch.text_targets, batch.targets)
    rows, columns = torch.nonzero(targets != IGNORE, as_tuple=True)
    tokens, owners = targets[rows, columns], numbers.to(rows.device)[rows]
    answers = batch.targets[rows, columns] != IGNORE
    return Captured(_decoder_inputs(model, batch), rows, columns, tokens, owners, answers)


def _decoder_inputs(model: PreTrainedModel, batch: Batch) -> dict[str, Any]:
    """The arguments with which the model calls its decoder for a batch; the decoder does not
    run."""
    seen: dict[str, Any] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.update(kwargs, use_cache=False)
        raise _Reached

    hook = model.get_decoder().register_forward_pre_hook(keep, with_kwargs=True)
    try:
        model(**batch.inputs, use_cache=False)
    except _Reached:
        pass
    finally:
        hook.remove()
    return seen


def _by_length(samples: pd.DataFrame) -> np.ndarray:
    """An order in which neighbours have about the same length, so that batches have little padding.

    By picture size first: pictures of different sizes differ by more tokens than texts do.
    """
    rows = samples.to_dict("records")
    return np.lexsort(([letters(row) for row in rows], [pixels(row) for row in rows]))
