"""Turns samples into padded tensors with the right answer appended (teacher forcing).

One forward pass over prompt + answer gives the answer's log-likelihood, and whether greedy
generation would give the answer: it does if and only if every answer token, and then an end token,
is the most likely next token after those before it. A text has no prompt: each of its tokens is a
target.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import pandas as pd
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, PreTrainedModel
from transformers.utils import ModelOutput

from lop.data.batching import Fitting
from lop.data.chat import (
    Processor,
    answer_ids,
    ask,
    chat,
    check_processor,
    end_token,
    longest,
    padded,
    plain,
    prompt_ids,
    special_ids,
    text_ids,
    tokenize,
)
from lop.data.samples import decode_images, document, label, prompt_text
from lop.errors import LopError

T = TypeVar("T")
IGNORE = -100


@dataclass
class Batch:
    """`inputs` for the model's forward and, aligned with its logits, the target tokens.

    `targets` are the answer's tokens and the end token, none for a question without an answer, and
    all tokens of a text. `text_targets` also include the tokens of the question: all tokens except
    padding, special tokens and picture placeholders.
    """

    inputs: dict[str, Tensor]  # input_ids, attention_mask (B, T), pixel_values …; right-padded
    targets: Tensor  # (B, T), else IGNORE
    text_targets: Tensor  # (B, T), else IGNORE
    encoded: Callable[[slice], Batch] | None = None  # makes a batch of some of its samples

    def in_parts(self, fitting: Fitting, work: Callable[[Batch], T]) -> list[T]:
        """The results of `work` for the batch, or for its parts if the batch does not fit in
        memory.

        A batch that `encode` did not make is not split.
        """
        count, encoded = len(self.targets), self.encoded
        if encoded is None:
            return [work(self)]
        return list(
            fitting(count, lambda part: work(self if part == slice(0, count) else encoded(part)))
        )


def encode(
    samples: pd.DataFrame,
    model: PreTrainedModel,
    processor: Processor,
    batch_size: int,
) -> Iterator[Batch]:
    """Batches of samples in order, on the device of the model's input embeddings.

    Samples with pictures and samples without are in separate batches, so a batch may have fewer
    than `batch_size` samples. Raises LopError if a prompt cannot be built (no usable chat template,
    or no support for pictures), and if a sample is longer than the model's context.
    """
    questions = any(document(row) is None for row in samples.to_dict("records"))
    if questions:
        check_processor(processor)
    end = end_token(model, processor) if questions else IGNORE
    special = torch.tensor(special_ids(processor))
    embeddings = cast(Tensor, model.get_input_embeddings().weight)
    # if they are offloaded, accelerate moves the inputs
    device = torch.device("cpu") if embeddings.is_meta else embeddings.device
    for chosen in _parts(samples, batch_size):
        rows = chosen.to_dict("records")
        prompts = prompt_tensors(processor, rows, "right")
        answers = [_answer(processor, row, end) for row in rows]
        _check_lengths(prompts["attention_mask"], answers, longest(model), chosen)
        texts = torch.tensor([document(row) is not None for row in rows])
        batch = _append_answers(model, prompts, answers, texts, special)
        batch.inputs = {
            k: v.to(device, embeddings.dtype if v.is_floating_point() else None)
            for k, v in batch.inputs.items()
        }
        batch.targets = batch.targets.to(device)
        batch.text_targets = batch.text_targets.to(device)
        batch.encoded = partial(_part, chosen, model, processor)
        yield batch


def _part(samples: pd.DataFrame, model: PreTrainedModel, processor: Processor, of: slice) -> Batch:
    (batch,) = encode(samples.iloc[of], model, processor, len(samples))
    return batch


def _parts(samples: pd.DataFrame, batch_size: int) -> Iterator[pd.DataFrame]:
    """Parts of the samples in order, at most `batch_size` each, all with pictures or all
    without."""
    seeing = [bool(len(images)) for images in samples["images"]]
    start = 0
    for i in range(1, len(seeing) + 1):
        if i == len(seeing) or i - start == batch_size or seeing[i] != seeing[start]:
            yield samples.iloc[start:i]
            start = i


def prompt_tensors(processor: Processor, rows: list[Any], padding_side: str) -> BatchFeature:
    """Samples as a padded batch for forward or `generate`; all with pictures or all without."""
    if any(len(row["images"]) for row in rows):
        texts = [prompt(processor, row) for row in rows]
        return tokenize(processor, texts, [decode_images(row) for row in rows], padding_side)
    return padded(processor, [_ids(processor, row) for row in rows], padding_side)


def _ids(processor: Processor, row: dict) -> list[int]:
    """The tokens of a text, or of a question without pictures."""
    if (text := document(row)) is not None:
        return text_ids(processor, plain(processor, text))
    return prompt_ids(processor, prompt(processor, row))


def prompt(processor: Processor, sample: dict) -> str:
    """A question as one user turn of the model's own chat template, up to its answer."""
    content: list[Any] = [{"type": "image"} for _ in sample["images"]]
    try:
        return ask(processor, [*content, {"type": "text", "text": prompt_text(sample)}])
    except LopError as error:
        raise LopError(f"sample {sample.get('id', '')}: {error}") from error


def _answer(processor: Processor, row: dict, end: int) -> list[int]:
    """The tokens of a sample's answer, in NFC as models write it, with the end token; none without
    an answer."""
    if (answer := label(row)) is None:
        return []
    text = plain(processor, unicodedata.normalize("NFC", answer))
    return [*answer_ids(processor, prompt(processor, row), chat(processor).lead + text), end]


def _check_lengths(
    mask: Tensor, answers: list[list[int]], limit: int | None, samples: pd.DataFrame
) -> None:
    lengths = mask.sum(1).tolist()
    for i, (length, answer) in enumerate(zip(lengths, answers, strict=True)):
        further = max(len(answer) - 1, 0)
        if limit and length + further > limit:
            raise LopError(
                f"row {samples.index[i]} (id {samples['id'].iloc[i]}): {length} tokens to ask and "
                f"{further} to answer; the model takes at most {limit}"
            )


def append_tokens(
    model: PreTrainedModel,
    prompts: Mapping[str, Any],
    new: Sequence[Sequence[int]],
    padding_side: str,
) -> dict[str, Any]:
    """A padded batch of prompts with more tokens appended to each, padded again.

    Other inputs with one value per token, such as token types, are extended by the rule of the
    model's own `generate`.
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
    model: PreTrainedModel,
    prompts: Mapping[str, Any],
    answers: list[list[int]],
    texts: Tensor,
    special: Tensor,
) -> Batch:
    """Append each answer to its prompt; the end token is only a target, never an input.

    `texts` (B,) marks the rows that are texts; all of their tokens are targets.
    """
    inputs = append_tokens(model, prompts, [answer[:-1] for answer in answers], "right")
    targets = torch.full_like(inputs["input_ids"], IGNORE)
    lengths = prompts["attention_mask"].sum(1).tolist()
    for i, (n, answer) in enumerate(zip(lengths, answers, strict=True)):
        targets[i, n - 1 : n - 1 + len(answer)] = torch.tensor(answer, dtype=torch.long)
    following = torch.full_like(targets, IGNORE)
    following[:, :-1] = inputs["input_ids"][:, 1:]
    read = torch.zeros_like(targets, dtype=torch.bool)
    read[:, :-1] = inputs["attention_mask"][:, 1:].bool()
    following[~read | torch.isin(following, special)] = IGNORE
    text_targets = torch.where(targets == IGNORE, following, targets)
    return Batch(inputs, torch.where(texts[:, None], text_targets, targets), text_targets)
