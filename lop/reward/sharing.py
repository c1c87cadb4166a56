"""Samples with a common prefix share it: the questions about one picture process it once.

A row has the common prefix and then, one after another, the suffix of each sample. A suffix attends
to the prefix and to itself, and keeps its position ids, so each token's result is unchanged (tree
attention, as in speculative decoding: Miao et al. 2024, arXiv:2305.09781).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from lop.reward.captured import CLOSE, Capture, Captured, hidden_at

T = TypeVar("T")

# a decoder's inputs with one value for each token; deepstack is Qwen3-VL's, with a tensor for each
# layer
PER_TOKEN = {"inputs_embeds", "attention_mask", "position_ids", "cache_position"}
DEEPSTACK, AT = "deepstack_visual_embeds", "visual_pos_masks"
FULL = "full_attention"
SETTINGS = (bool, int, float, str)  # inputs that are not tensors do not depend on the rows
TAKES_MASKS = ("sdpa", "eager")  # attention implementations that accept any mask
LONGEST = 4  # longest row, in units of its longest sample; attention's cost grows with it


@dataclass
class _Sample:
    """One sample without padding: its ids (T,) and the decoder's inputs for each token (T, …)."""

    pictures: tuple[bytes, ...]
    ids: Tensor
    given: dict[str, Tensor]
    columns: Tensor
    tokens: Tensor
    owners: Tensor
    answers: Tensor


@dataclass
class _Row:
    """Samples with a common prefix; `segments` (L,) is 0 in the prefix, and the sample's number,
    from 1, elsewhere."""

    given: dict[str, Tensor]
    segments: Tensor
    columns: Tensor
    tokens: Tensor
    owners: Tensor
    answers: Tensor
    samples: int


@dataclass
class Shared(Captured):
    """A batch of rows with `segments` (B, L), -1 for padding; the mask is built when needed.

    `boolean`: whether attention takes a boolean mask, not an additive one.
    """

    segments: Tensor
    boolean: bool

    def inputs(self) -> dict[str, Any]:
        """Keyword arguments for a call of the decoder; the mask is (B, 1, L, L)."""
        mask = _mask(self.segments)
        if not self.boolean:
            dtype = self.decoder_inputs["inputs_embeds"].dtype
            zero = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
            mask = zero.masked_fill_(~mask, torch.finfo(dtype).min)
        return self.decoder_inputs | {"attention_mask": mask}


@dataclass
class Decoder:
    """What a decoder supports, as found by trying it on samples; None before that."""

    unmasked: bool | None = None  # padding without a mask
    rows: bool | None = None  # samples with a common prefix in one row


def share(
    model: PreTrainedModel,
    parts: list[list[Capture]],
    batch_size: int,
    decoder: Decoder | None = None,
) -> list[list[Captured]]:
    """By part, its captured samples with common prefixes shared, `batch_size` samples in a batch.

    Samples stay as captured if no two of them have the same picture, if the decoder has layers
    without full attention or inputs besides embeddings, padding and positions, or if its hidden
    states show that it does not respect the mask. Rows without sharing run without a mask, which is
    faster, if the decoder has only full attention. Pass the same `decoder` to every call, so that
    it is tried only once.
    """
    decoder = decoder or Decoder()
    as_captured = [[capture.batch for capture in captures] for captures in parts]
    if not _understood(model, [capture for captures in parts for capture in captures]):
        return as_captured
    as_captured = _unmasked(model, as_captured, decoder)
    groups = [_groups(_samples(captures)) for captures in parts]
    largest = [max(of, key=len) for of in groups]
    others = {k: v for k, v in as_captured[0][0].decoder_inputs.items() if isinstance(v, SETTINGS)}
    if len(fullest := max(largest, key=len)) == 1:
        return as_captured
    if decoder.rows is None:
        decoder.rows = _agree(model, fullest, others)
    if not decoder.rows:
        return as_captured
    boolean = _takes_booleans(model)
    return [
        _batches(of, others, batch_size, boolean) if len(most) > 1 else plain
        for of, most, plain in zip(groups, largest, as_captured, strict=True)
    ]


def _batches(
    groups: list[list[_Sample]], others: dict[str, Any], batch_size: int, boolean: bool
) -> list[Captured]:
    """Batches of rows of similar length; rows of one sample, which need no mask, in separate
    batches."""
    rows, batches = sorted(map(_row, groups), key=lambda row: len(row.segments)), []
    for some in ([r for r in rows if r.samples == 1], [r for r in rows if r.samples > 1]):
        parts = _parts(some, [r.samples for r in some], batch_size)
        batches += [_batch(part, others, boolean) for part in parts]
    return batches


@torch.inference_mode()
def _unmasked(
    model: PreTrainedModel, parts: list[list[Captured]], decoder: Decoder
) -> list[list[Captured]]:
    """Captured batches with padding treated like any other token: it is on the right, so in causal
    attention no other token attends to it, and no mask (B, 1, T, T) is needed.

    They are returned unchanged if one of them shows that the decoder uses the mask otherwise.
    """
    free = [[_free(batch) for batch in batches] for batches in parts]
    both = [pair for pairs in zip(parts, free, strict=True) for pair in zip(*pairs, strict=True)]
    padded = next((pair for pair in both if _is_padded(pair[0])), None)
    if decoder.unmasked is None and padded is not None:
        decoder.unmasked = _same(*(hidden_at(model, of) for of in padded))
    return parts if decoder.unmasked is False else free


def _free(batch: Captured) -> Captured:
    mask = batch.decoder_inputs.get("attention_mask")
    if mask is None:
        return batch
    inputs = batch.decoder_inputs | {"attention_mask": torch.ones_like(mask)}
    return replace(batch, decoder_inputs=inputs)


def _is_padded(batch: Captured) -> bool:
    mask = batch.decoder_inputs.get("attention_mask")
    return mask is not None and not bool(mask.all())


def _takes_booleans(model: PreTrainedModel) -> bool:
    return bool(model.get_decoder().config._attn_implementation == "sdpa")


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
    """The decoder's inputs for each token, as tensors (B, T, …)."""
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
    """Samples grouped by picture; a group makes a row of at most `LONGEST` times its longest
    sample."""
    by_picture: dict[object, list[_Sample]] = {}
    for number, sample in enumerate(samples):  # a sample without pictures is its own group
        by_picture.setdefault(sample.pictures or number, []).append(sample)
    groups: list[list[_Sample]] = []
    for alike in by_picture.values():
        start, lengths = _common(alike), [len(sample.ids) for sample in alike]
        groups += _parts(alike, [n - start for n in lengths], LONGEST * max(lengths) - start)
    return groups


def _row(samples: Sequence[_Sample]) -> _Row:
    """One row of samples with their longest common prefix."""
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
    """Length of the samples' common prefix in tokens; the whole length of a single sample."""
    shortest = min(len(sample.ids) for sample in samples)
    ids = torch.stack([sample.ids[:shortest] for sample in samples])
    return int((ids == ids[0]).all(0).int().cumprod(0).sum())


def _parts(items: Iterable[T], sizes: Iterable[int], most: int) -> list[list[T]]:
    """Items in order, in parts whose sizes sum to at most `most`; a larger item is a part alone."""
    parts: list[list[T]] = []
    room = 0
    for item, size in zip(items, sizes, strict=True):
        if not parts or size > room:
            parts.append([])
            room = most
        parts[-1].append(item)
        room -= size
    return parts


def _batch(rows: Sequence[_Row], others: dict[str, Any], boolean: bool) -> Captured:
    """A batch of rows; without a mask if no row is shared, as in `_unmasked`."""
    padded = {
        name: pad_sequence([row.given[name] for row in rows], batch_first=True)
        for name in rows[0].given
    }
    counts = torch.tensor([len(row.columns) for row in rows])
    columns = torch.cat([row.columns for row in rows])
    inputs = others | _for_decoder(padded)
    places = (
        torch.repeat_interleave(torch.arange(len(rows)), counts).to(columns.device),
        columns,
        torch.cat([row.tokens for row in rows]),
        torch.cat([row.owners for row in rows]),
        torch.cat([row.answers for row in rows]),
    )
    segments = pad_sequence([row.segments for row in rows], batch_first=True, padding_value=-1)
    if all(row.samples == 1 for row in rows):
        return Captured(inputs | {"attention_mask": torch.ones_like(segments)}, *places)
    return Shared(inputs, *places, segments, boolean)


def _mask(segments: Tensor) -> Tensor:
    """(B, 1, L, L): whether a token (row) attends to another (column)."""
    length = segments.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    same = segments[:, :, None] == segments[:, None, :]
    return (same.logical_or_((segments == 0)[:, None, :]).logical_and_(before))[:, None]


@torch.inference_mode()
def _agree(model: PreTrainedModel, group: Sequence[_Sample], others: dict[str, Any]) -> bool:
    """Whether the decoder gives the same results for samples in one row as for each of them
    alone."""
    together = hidden_at(model, _batch([_row(group)], others, _takes_booleans(model)))
    return _same(together, torch.cat([hidden_at(model, _alone(one, others)) for one in group]))


def _same(found: Tensor, expected: Tensor) -> bool:
    """Whether hidden states are equal up to rounding."""
    difference = (found - expected).float().norm() / expected.float().norm()
    return bool(difference < CLOSE.get(expected.dtype, 3e-2))


def _alone(sample: _Sample, others: dict[str, Any]) -> Captured:
    inputs = _for_decoder({name: tensor[None] for name, tensor in sample.given.items()})
    inputs |= {"attention_mask": torch.ones_like(sample.ids[None])}
    rows = torch.zeros_like(sample.columns)
    places = (rows, sample.columns, sample.tokens, sample.owners, sample.answers)
    return Captured(others | inputs, *places)
