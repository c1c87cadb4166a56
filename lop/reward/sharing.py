"""Samples that begin alike share that beginning: questions about one picture read it once.

A row holds the common beginning and then, one after the other, the rest of each sample. A rest sees
the beginning and itself, and keeps the positions it had, so each token computes what it did before
(tree attention, as in speculative decoding: Miao et al. 2024, arXiv:2305.09781).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from lop.reward.captured import CLOSE, Capture, Captured, hidden_at

T = TypeVar("T")

# what a decoder may be given a token; deepstack is Qwen3-VL's, and has a tensor a layer
PER_TOKEN = {"inputs_embeds", "attention_mask", "position_ids", "cache_position"}
DEEPSTACK, AT = "deepstack_visual_embeds", "visual_pos_masks"
FULL = "full_attention"
SETTINGS = (bool, int, float, str)  # what is no tensor does not depend on the rows
TAKES_MASKS = ("sdpa", "eager")  # attention that takes a mask of any form
LONGEST = 4  # a row's length in units of its longest sample: attention grows with it


@dataclass
class _Sample:
    """One sample without padding: its ids (T,) and what the decoder is given a token (T, …)."""

    pictures: tuple[bytes, ...]
    ids: Tensor
    given: dict[str, Tensor]
    columns: Tensor
    tokens: Tensor
    owners: Tensor
    answers: Tensor


@dataclass
class _Row:
    """Samples with a common beginning; `segments` (L,) is 0 there and else the sample's, from 1."""

    given: dict[str, Tensor]
    segments: Tensor
    columns: Tensor
    tokens: Tensor
    owners: Tensor
    answers: Tensor
    samples: int


@dataclass
class Shared(Captured):
    """A batch of rows with `segments` (B, L), -1 where padded; its mask is made when needed."""

    segments: Tensor

    def inputs(self) -> dict[str, Any]:
        """What to call the decoder with; the mask is (B, 1, L, L), to be added."""
        mask = _mask(self.segments, self.decoder_inputs["inputs_embeds"].dtype)
        return self.decoder_inputs | {"attention_mask": mask}


def share(
    model: PreTrainedModel, parts: list[list[Capture]], batch_size: int
) -> list[list[Captured]]:
    """By part, its captured samples with common beginnings shared, `batch_size` in a batch.

    As they were captured where no two samples have one picture, where the decoder has other layers
    than those of full attention or is given more than embeddings, padding and positions, and where
    its hidden states show that it does not take the mask for what it is.
    """
    as_captured = [[capture.batch for capture in captures] for captures in parts]
    if not _understood(model, [capture for captures in parts for capture in captures]):
        return as_captured
    groups = [_groups(_samples(captures)) for captures in parts]
    largest = [max(of, key=len) for of in groups]
    others = {k: v for k, v in as_captured[0][0].decoder_inputs.items() if isinstance(v, SETTINGS)}
    if len(fullest := max(largest, key=len)) == 1 or not _agree(model, fullest, others):
        return as_captured
    return [
        _batches(of, others, batch_size) if len(most) > 1 else plain
        for of, most, plain in zip(groups, largest, as_captured, strict=True)
    ]


def _batches(
    groups: list[list[_Sample]], others: dict[str, Any], batch_size: int
) -> list[Captured]:
    rows = sorted(map(_row, groups), key=lambda row: len(row.segments))
    return [_batch(part, others) for part in _parts(rows, [r.samples for r in rows], batch_size)]


def _understood(model: PreTrainedModel, captures: list[Capture]) -> bool:
    config = model.get_decoder().config
    kinds = getattr(config, "layer_types", None) or [FULL]
    if config._attn_implementation not in TAKES_MASKS or set(kinds) != {FULL}:
        return False
    names = set()
    for capture in captures:
        inputs = capture.batch.decoder_inputs.items()
        given = {k: v for k, v in inputs if v is not None and not isinstance(v, SETTINGS)}
        mask = given.get("attention_mask")
        if mask is not None and mask.shape != capture.ids.shape:
            return False
        names.add(frozenset(given))
    if len(names) > 1:
        return False
    (given_names,) = names
    return "inputs_embeds" in given_names and given_names <= PER_TOKEN | {DEEPSTACK, AT}


def _a_token(capture: Capture) -> dict[str, Tensor]:
    """What the decoder is given, as tensors (B, T, …)."""
    shape, given = capture.ids.shape, capture.batch.decoder_inputs
    positions = given.get("position_ids")
    if positions is None:
        positions = torch.arange(shape[1], device=capture.ids.device)[None]
    positions = positions.expand(*positions.shape[:-2], *shape).movedim((-2, -1), (0, 1))
    tensors = {"inputs_embeds": given["inputs_embeds"], "position_ids": positions}
    if given.get(AT) is not None:
        tensors[AT] = given[AT]
        for i, layer in enumerate(given[DEEPSTACK]):
            whole = layer.new_zeros(*shape, layer.shape[-1])
            whole[given[AT]] = layer
            tensors[f"{DEEPSTACK}.{i}"] = whole
    return tensors


def _for_decoder(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The reverse of `_a_token`."""
    positions = tensors["position_ids"].movedim((0, 1), (-2, -1))
    inputs: dict[str, Any] = {"inputs_embeds": tensors["inputs_embeds"], "position_ids": positions}
    if AT in tensors:
        layers = [tensor for name, tensor in tensors.items() if name.startswith(DEEPSTACK)]
        inputs |= {AT: tensors[AT], DEEPSTACK: [layer[tensors[AT]] for layer in layers]}
    return inputs


def _samples(captures: Iterable[Capture]) -> Iterable[_Sample]:
    for capture in captures:
        batch, given = capture.batch, _a_token(capture)
        for i, length in enumerate(capture.lengths):
            own = batch.rows == i
            yield _Sample(
                capture.pictures[i],
                capture.ids[i, :length],
                {name: tensor[i, :length] for name, tensor in given.items()},
                batch.columns[own],
                batch.tokens[own],
                batch.owners[own],
                batch.answers[own],
            )


def _groups(samples: Iterable[_Sample]) -> list[list[_Sample]]:
    """Samples by their pictures, as many together as make a row of a fair length."""
    by_picture: dict[object, list[_Sample]] = {}
    for number, sample in enumerate(samples):  # one without pictures is a group of its own
        by_picture.setdefault(sample.pictures or number, []).append(sample)
    groups: list[list[_Sample]] = []
    for alike in by_picture.values():
        start, lengths = _common(alike), [len(sample.ids) for sample in alike]
        groups += _parts(alike, [n - start for n in lengths], LONGEST * max(lengths) - start)
    return groups


def _row(samples: Sequence[_Sample]) -> _Row:
    """One row of samples whose common beginning is the longest that all of them have."""
    first, start = samples[0], _common(samples)
    segments, columns = [0] * start, []
    for number, sample in enumerate(samples, 1):
        moved = len(segments) - start
        columns.append(torch.where(sample.columns < start, sample.columns, sample.columns + moved))
        segments += [number] * (len(sample.ids) - start)
    rests = {name: [sample.given[name][start:] for sample in samples] for name in first.given}
    return _Row(
        {name: torch.cat([first.given[name][:start], *rest]) for name, rest in rests.items()},
        torch.tensor(segments, device=first.ids.device),
        torch.cat(columns),
        torch.cat([sample.tokens for sample in samples]),
        torch.cat([sample.owners for sample in samples]),
        torch.cat([sample.answers for sample in samples]),
        len(samples),
    )


def _common(samples: Sequence[_Sample]) -> int:
    """How many tokens all samples begin with; all of them where there is one sample."""
    shortest = min(len(sample.ids) for sample in samples)
    ids = torch.stack([sample.ids[:shortest] for sample in samples])
    return int((ids == ids[0]).all(0).int().cumprod(0).sum())


def _parts(items: Iterable[T], sizes: Iterable[int], most: int) -> list[list[T]]:
    """Items in order, in parts whose sizes add up to `most` or less, or of one item."""
    parts: list[list[T]] = []
    room = 0
    for item, size in zip(items, sizes, strict=True):
        if not parts or size > room:
            parts.append([])
            room = most
        parts[-1].append(item)
        room -= size
    return parts


def _batch(rows: Sequence[_Row], others: dict[str, Any]) -> Shared:
    padded = {
        name: pad_sequence([row.given[name] for row in rows], batch_first=True)
        for name in rows[0].given
    }
    counts = torch.tensor([len(row.columns) for row in rows])
    columns = torch.cat([row.columns for row in rows])
    return Shared(
        others | _for_decoder(padded),
        torch.repeat_interleave(torch.arange(len(rows)), counts).to(columns.device),
        columns,
        torch.cat([row.tokens for row in rows]),
        torch.cat([row.owners for row in rows]),
        torch.cat([row.answers for row in rows]),
        pad_sequence([row.segments for row in rows], batch_first=True, padding_value=-1),
    )


def _mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, L, L) of zero where a token (row) sees another (column), else the lowest number."""
    length = segments.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    same = segments[:, :, None] == segments[:, None, :]
    sees = before & (same | (segments == 0)[:, None, :])
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(
        ~sees, torch.finfo(dtype).min
    )[:, None]


@torch.inference_mode()
def _agree(model: PreTrainedModel, group: Sequence[_Sample], others: dict[str, Any]) -> bool:
    """Whether the decoder computes for samples in one row what it does for each of them alone."""
    together = hidden_at(model, _batch([_row(group)], others))
    alone = torch.cat([hidden_at(model, _alone(sample, others)) for sample in group])
    difference = (together - alone).float().norm() / alone.float().norm()
    return bool(difference < CLOSE.get(alone.dtype, 3e-2))


def _alone(sample: _Sample, others: dict[str, Any]) -> Captured:
    inputs = _for_decoder({name: tensor[None] for name, tensor in sample.given.items()})
    inputs |= {"attention_mask": torch.ones_like(sample.ids[None])}
    rows = torch.zeros_like(sample.columns)
    places = (rows, sample.columns, sample.tokens, sample.owners, sample.answers)
    return Captured(others | inputs, *places)
