"""Turns samples into padded tensors with the right answer appended (teacher forcing).

One forward pass over prompt + answer tells both the answer's log-likelihood and whether greedy
generation would give it: it would exactly when every answer token, and then an end token, is the
most likely next one given those before it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin
from transformers.utils import ModelOutput

from lop.errors import LopError
from lop.tasks.chat import (
    answer_ids,
    ask,
    chat,
    check_processor,
    end_token,
    longest,
    plain,
    tokenize,
)
from lop.tasks.samples import decode_images, prompt_text

IGNORE = -100


@dataclass
class Batch:
    """`inputs` for the model's forward and, aligned with its logits, what should come next."""

    inputs: dict[str, Tensor]  # input_ids, attention_mask (B, T), pixel_values …; right-padded
    targets: Tensor  # (B, T): the answer's tokens and the end token, else IGNORE


def encode(
    samples: pd.DataFrame,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    batch_size: int,
) -> Iterator[Batch]:
    """Batches of samples in order, on the device of the model's input embeddings.

    Raises LopError when the processor takes no pictures or has no chat template that works, or a
    sample is longer than the model takes.
    """
    check_processor(processor)
    end = end_token(model, processor)
    embeddings = cast(Tensor, model.get_input_embeddings().weight)
    # where they are offloaded, accelerate moves what it is given
    device = torch.device("cpu") if embeddings.is_meta else embeddings.device
    for start in range(0, len(samples), batch_size):
        chosen = samples.iloc[start : start + batch_size]
        rows = chosen.to_dict("records")
        texts = [prompt(processor, row) for row in rows]
        prompts = tokenize(processor, texts, [decode_images(row) for row in rows], "right")
        answers = [
            [*_answer(processor, text, row), end] for text, row in zip(texts, rows, strict=True)
        ]
        _check_lengths(prompts["attention_mask"], answers, longest(model), chosen)
        batch = _append_answers(model, prompts, answers)
        batch.inputs = {
            k: v.to(device, embeddings.dtype if v.is_floating_point() else None)
            for k, v in batch.inputs.items()
        }
        batch.targets = batch.targets.to(device)
        yield batch


def prompt_tensors(processor: ProcessorMixin, rows: list[Any], padding_side: str) -> BatchFeature:
    """Samples as the processor's own padded batch, ready for forward or `generate`."""
    texts = [prompt(processor, row) for row in rows]
    return tokenize(processor, texts, [decode_images(row) for row in rows], padding_side)


def prompt(processor: ProcessorMixin, sample: dict) -> str:
    """The sample as one user turn of the model's own chat template, up to its answer."""
    if not len(sample["images"]):
        raise LopError(f"sample {sample['id']}: no picture; lop asks questions about pictures")
    content: list[Any] = [{"type": "image"} for _ in sample["images"]]
    return ask(processor, [*content, {"type": "text", "text": prompt_text(sample)}])


def _answer(processor: ProcessorMixin, asked: str, row: dict) -> list[int]:
    """The tokens of a sample's answer, composed (NFC) as models write it."""
    text = plain(processor, unicodedata.normalize("NFC", row["answer"]))
    return answer_ids(processor, asked, chat(processor).lead + text)


def _check_lengths(
    mask: Tensor, answers: list[list[int]], limit: int | None, samples: pd.DataFrame
) -> None:
    lengths = mask.sum(1).tolist()
    for i, (length, answer) in enumerate(zip(lengths, answers, strict=True)):
        if limit and length + len(answer) - 1 > limit:
            raise LopError(
                f"row {samples.index[i]} (id {samples['id'].iloc[i]}): {length} tokens to ask and "
                f"{len(answer) - 1} to answer; the model takes at most {limit}"
            )


def append_tokens(
    model: PreTrainedModel,
    prompts: Mapping[str, Any],
    new: Sequence[Sequence[int]],
    padding_side: str,
) -> dict[str, Any]:
    """A padded batch of prompts with some tokens behind each, padded again.

    What the model is told of each token (its kind, which pictures it sees) goes on by the rule by
    which its own `generate` goes on, token by token.
    """
    ids, mask = prompts["input_ids"], prompts["attention_mask"].bool()
    rule: Any = model._update_model_kwargs_for_generation
    per_token = [
        k for k, v in prompts.items() if isinstance(v, Tensor) and v.shape[:2] == ids.shape
    ]
    rows = []
    for i, tokens in enumerate(new):
        row = {name: prompts[name][i : i + 1, mask[i]] for name in per_token}
        for token in tokens:
            text = row.pop("input_ids")
            row = rule(ModelOutput(), row, False)
            row["input_ids"] = torch.cat([text, text.new_tensor([[token]])], 1)
        rows.append(row)
    grown = {
        name: pad_sequence(
            [row[name][0] for row in rows], batch_first=True, padding_side=padding_side
        )
        for name in per_token
    }
    return {**prompts, **grown}


def _append_answers(
    model: PreTrainedModel, prompts: Mapping[str, Any], answers: list[list[int]]
) -> Batch:
    """Write each answer behind its prompt; its end token is a target only, never an input."""
    inputs = append_tokens(model, prompts, [answer[:-1] for answer in answers], "right")
    targets = torch.full_like(inputs["input_ids"], IGNORE)
    lengths = prompts["attention_mask"].sum(1).tolist()
    for i, (n, answer) in enumerate(zip(lengths, answers, strict=True)):
        targets[i, n - 1 : n - 1 + len(answer)] = torch.tensor(answer)
    return Batch(inputs, targets)
