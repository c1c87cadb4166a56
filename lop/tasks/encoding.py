"""Turns samples into padded tensors with the right answer appended (teacher forcing).

One forward pass over prompt + answer tells both the answer's log-likelihood and whether greedy
generation would give it: it would exactly when every answer token, and then an end token, is the
most likely next one given those before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from lop.errors import LopError
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

    Raises LopError when the processor has no chat template or the model no end token.
    """
    if not getattr(processor, "chat_template", None):
        raise LopError("the model's processor has no chat template; lop asks questions through one")
    end = _end_token(model)
    embeddings = cast(Tensor, model.get_input_embeddings().weight)
    # where they are offloaded, accelerate moves what it is given
    device = torch.device("cpu") if embeddings.is_meta else embeddings.device
    for start in range(0, len(samples), batch_size):
        rows = samples.iloc[start : start + batch_size].to_dict("records")
        answers = [processor.tokenizer.encode(r["answer"], add_special_tokens=False) for r in rows]
        prompts = prompt_tensors(processor, rows, padding_side="right")
        batch = _append_answers(dict(prompts), [[*answer, end] for answer in answers])
        batch.inputs = {
            k: v.to(device, embeddings.dtype if v.is_floating_point() else None)
            for k, v in batch.inputs.items()
        }
        batch.targets = batch.targets.to(device)
        yield batch


def prompt_tensors(processor: ProcessorMixin, rows: list[Any], padding_side: str) -> Any:
    """Samples as the processor's own padded batch, ready for forward or `generate`."""
    return processor(
        text=[prompt(processor, row) for row in rows],
        images=[decode_images(row) for row in rows],
        padding=True,
        padding_side=padding_side,
        return_tensors="pt",
    )


def prompt(processor: ProcessorMixin, sample: dict) -> str:
    """The sample as one user turn of the model's own chat template."""
    content: list[Any] = [{"type": "image"} for _ in sample["images"]]
    content.append({"type": "text", "text": prompt_text(sample)})
    turns: Any = [{"role": "user", "content": content}]
    return processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)


def _end_token(model: PreTrainedModel) -> int:
    end = model.generation_config.eos_token_id
    if end is None:
        raise LopError("the model's generation config names no eos_token_id to end an answer with")
    return int(end[0]) if isinstance(end, list) else int(end)


def _append_answers(prompts: dict[str, Tensor], answers: list[list[int]]) -> Batch:
    """Write each answer behind its prompt; its end token is a target only, never an input."""
    ids = prompts["input_ids"]
    lengths = prompts["attention_mask"].sum(1).tolist()
    total = max(n + len(a) - 1 for n, a in zip(lengths, answers, strict=True))
    inputs = {
        # per-token tensors grow by the answers (new entries are zero: text, not picture)
        name: torch.nn.functional.pad(tensor, (0, max(0, total - ids.shape[1])))
        if tensor.shape == ids.shape
        else tensor
        for name, tensor in prompts.items()
    }
    targets = torch.full_like(inputs["input_ids"], IGNORE)
    for i, (n, answer) in enumerate(zip(lengths, answers, strict=True)):
        tokens = torch.tensor(answer)
        inputs["input_ids"][i, n : n + len(answer) - 1] = tokens[:-1]
        inputs["attention_mask"][i, n : n + len(answer) - 1] = 1
        targets[i, n - 1 : n - 1 + len(answer)] = tokens
    return Batch(inputs, targets)
