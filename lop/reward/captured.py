"""What the decoder would be given for a set of samples, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from lop.tasks.encoding import IGNORE, encode
from lop.tasks.samples import pixels, prompt_text


@dataclass
class Captured:
    """A batch of rows as the decoder receives it, and what should come next at some places.

    `rows` and `columns` are the places (P,), `tokens` what comes next there, `owners` the number
    of the sample that it belongs to.
    """

    decoder_inputs: dict[str, Any]
    rows: Tensor
    columns: Tensor
    tokens: Tensor
    owners: Tensor

    def inputs(self) -> dict[str, Any]:
        """What to call the decoder with."""
        return self.decoder_inputs


def hidden_at(model: PreTrainedModel, batch: Captured) -> Tensor:
    """The decoder's last hidden states (P, H) at a batch's places."""
    hidden: Tensor = model.get_decoder()(**batch.inputs()).last_hidden_state
    # with a device map they may be on another device than what went in
    return hidden[batch.rows.to(hidden.device), batch.columns.to(hidden.device)]


class _Reached(Exception):
    """Raised by the hook once the decoder's inputs are known, so that it does not run."""


@dataclass
class Capture:
    """A batch as captured, one sample a row: its token ids (B, T), its samples' lengths and
    their pictures as stored (B each)."""

    batch: Captured
    pictures: list[tuple[bytes, ...]]
    ids: Tensor
    lengths: list[int]


@torch.inference_mode()
def capture(
    model: PreTrainedModel, processor: ProcessorMixin, samples: pd.DataFrame, batch_size: int
) -> list[Capture]:
    """Run all that comes before the decoder, once, and keep what the decoder would be given.

    Kept are embeddings, positions and masks: about samples · tokens · hidden numbers.
    """
    seen: list[dict[str, Any]] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append({**kwargs, "use_cache": False})
        raise _Reached

    captures, order = [], _by_length(samples)
    stored = [tuple(image["bytes"] for image in images) for images in samples["images"]]
    hook = model.get_decoder().register_forward_pre_hook(keep, with_kwargs=True)
    try:
        for i, batch in enumerate(encode(samples.iloc[order], model, processor, batch_size)):
            try:
                model(**batch.inputs, use_cache=False)
            except _Reached:
                rows, columns = torch.nonzero(batch.targets != IGNORE, as_tuple=True)
                numbers = torch.as_tensor(order[i * batch_size :], device=rows.device)
                captured = Captured(
                    seen.pop(), rows, columns, batch.targets[rows, columns], numbers[rows]
                )
                pictures = [stored[k] for k in numbers[: len(batch.targets)].tolist()]
                lengths = batch.inputs["attention_mask"].sum(1).tolist()
                captures.append(Capture(captured, pictures, batch.inputs["input_ids"], lengths))
    finally:
        hook.remove()
    return captures


def _by_length(samples: pd.DataFrame) -> np.ndarray:
    """An order in which neighbours are about equally long, so that batches hold little padding.

    By pictures first: where their sizes differ, their tokens outnumber the text's.
    """
    rows = samples.to_dict("records")
    texts = [len(prompt_text(row)) + len(row["answer"]) for row in rows]
    return np.lexsort((texts, [pixels(row) for row in rows]))
