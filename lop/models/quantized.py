"""Weights of 4 and 8 bits, in the format that `compressed-tensors` packs and stock loaders read.

A group of neighbours in a row shares a scale s = max|w| / (2^(bits-1) - ½), and a weight is stored
as round(w / s), from -2^(bits-1) to 2^(bits-1) - 1 (symmetric rounding to nearest). The model
computes with these numbers times their scale, at the model's dtype: `dequantized`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lop.errors import LopError
from lop.models.site import Site
from lop.models.space import decoder_layers
from lop.models.weights import Entry
from lop.plan import WHOLE, Bits

METHOD, FORMAT = "compressed-tensors", "pack-quantized"
SUFFIXES = ("_packed", "_scale", "_shape")  # of the names of a quantized weight's stored tensors
WORD = 4  # bytes of an int32, into which weights are packed
SHAPE = 16  # bytes of the stored shape, two int64
OTHERS = ("embeddings", "head", "attention", "vision", "projector")


def quantize(weight: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor]:
    """A weight (rows, columns) as integers, int8, and their scales (rows, columns / group) at the
    weight's dtype."""
    groups = weight.unflatten(1, (-1, group))
    most = 2 ** (bits - 1)
    scale = (groups.abs().amax(2).float() / (most - 0.5)).to(weight.dtype)
    scale = torch.where(scale == 0, torch.finfo(weight.dtype).eps, scale)
    numbers = (groups.float() / scale.float()[..., None]).round_().clamp_(-most, most - 1)
    return numbers.to(torch.int8).flatten(1), scale


def multiplied(numbers: Tensor, scale: Tensor) -> Tensor:
    """Integers times their scales: the dequantized weight (rows, columns) at the scale's dtype."""
    groups = numbers.unflatten(1, (scale.shape[1], -1))
    return (groups.to(scale.dtype) * scale[..., None]).flatten(1)


def dequantized(weight: Tensor, bits: int, group: int, stored: torch.dtype | None = None) -> Tensor:
    """A weight after quantization to `bits` and back; with `WHOLE` it is unchanged.

    Its scales have the dtype `stored` of the checkpoint; default: the weight's own.
    """
    if bits == WHOLE:
        return weight
    return multiplied(*quantize(weight.to(stored or weight.dtype), bits, group)).to(weight.dtype)


def packed_size(rows: int, columns: int, itemsize: int, bits: int, group: int) -> int:
    """Bytes of a stored weight at `bits`, with its scales of `itemsize` bytes and its shape.

    At `WHOLE` each value has `itemsize` bytes.
    """
    if bits == WHOLE:
        return rows * columns * itemsize
    return rows * (columns * bits // 32 * WORD + columns // group * itemsize) + SHAPE


@cache
def _packing() -> Any:
    try:
        from compressed_tensors.compressors.pack_quantized import helpers
    except ImportError as error:
        raise LopError(
            "weights of 4 and 8 bits need compressed-tensors: pip install 'lop[bits]'"
        ) from error
    return helpers


def pack(weight: Tensor, bits: int, group: int) -> dict[str, Tensor]:
    """The stored tensors of a quantized weight, by the suffix of their names."""
    numbers, scale = quantize(weight, bits, group)
    stored = (_packing().pack_to_int32(numbers, bits), scale, torch.tensor(weight.shape))
    return dict(zip(SUFFIXES, stored, strict=True))


@dataclass(frozen=True)
class Packed(Entry):
    """A quantized weight in a file; it is read dequantized, at the dtype of its scales.

    `start` is where the packed integers start, `size` the bytes of all its stored tensors.
    """

    packed: Entry
    scale: Entry

    def read(self, whole: np.ndarray | None = None) -> Tensor:
        """The dequantized weight (rows, columns)."""
        words = self.packed.read(whole)
        bits = 32 * words.shape[1] // self.shape[1]
        numbers = _packing().unpack_from_int32(words, bits, torch.Size(self.shape))
        return multiplied(numbers, self.scale.read(whole))

    def front(self, columns: int) -> Tensor:
        """The first columns of the weight, (rows, columns)."""
        return self.read()[:, :columns].contiguous()

    def values(self, indices: Tensor) -> Tensor:
        """Single values of the flattened weight, (n,) -> (n,)."""
        return self.read().flatten()[indices]


def unpacked(entries: Sequence[Entry]) -> list[Entry]:
    """A checkpoint's tensors, with the stored tensors of each quantized weight as one `Packed`.

    Raises LopError if the stored tensors of a weight do not fit together.
    """
    by_key = {entry.key: entry for entry in entries}
    packed = {
        entry.key.removesuffix(SUFFIXES[0]): entry
        for entry in entries
        if entry.key.endswith(f".weight{SUFFIXES[0]}")
    }
    stored = {f"{name}{end}" for name in packed for end in SUFFIXES}
    whole = [entry for entry in entries if entry.key not in stored]
    return [*whole, *(_packed(entry, name, by_key) for name, entry in packed.items())]


def _packed(packed: Entry, name: str, by_key: Mapping[str, Entry]) -> Packed:
    """The weight `name` with these packed integers."""
    scale, shape = (by_key.get(f"{name}{end}") for end in SUFFIXES[1:])
    if scale is None or shape is None:
        raise LopError(f"{packed.file}: {packed.key} without its scales or its shape")
    if (shape.shape, shape.dtype, packed.dtype) != ((2,), "I64", "I32"):
        raise LopError(f"{packed.file}: {name}: expected packed I32 and a shape of two I64")
    rows, columns = shape.read().tolist()
    words = [(rows, columns * n // 32) for n in (4, 8)]
    groups = scale.shape[1] if len(scale.shape) == 2 else 0
    if (
        packed.shape not in words
        or scale.shape != (rows, groups)
        or not 1 <= groups <= columns
        or not fits((rows, columns), columns // groups)
    ):
        raise LopError(
            f"{packed.file}: {name}: {packed.shape} packed and {scale.shape} scales make no weight "
            f"({rows}, {columns}) of 4 or 8 bits"
        )
    size = packed.size + scale.size + shape.size
    fields = (name, packed.file, scale.dtype, (rows, columns), packed.start, size)
    return Packed(*fields, packed, scale)


def understood(how: Mapping[str, Any]) -> bool:
    """Whether `unpacked` reads the weights of a config with this `quantization_config`."""
    groups = (how.get("config_groups") or {}).values()
    return bool(groups) and how.get("format") == FORMAT and all(map(_weights_alone, groups))


def _weights_alone(group: Mapping[str, Any]) -> bool:
    weights = group.get("weights") or {}
    ours = (weights.get("type"), weights.get("strategy"), weights.get("symmetric"))
    others = [group.get(f"{side}_activations") for side in ("input", "output")]
    return ours == ("int", "group", True) and weights.get("num_bits") in (4, 8) and not any(others)


def quantization_config(
    bits: Mapping[str, int], others: Sequence[str], group: int
) -> dict[str, Any]:
    """A config's `quantization_config` for linear maps and embeddings with these bits, and
    `others` that are not quantized."""
    groups = {
        f"bits_{n}": {
            "targets": sorted(name for name, of in bits.items() if of == n),
            "weights": {
                "num_bits": n, "type": "int", "symmetric": True, "strategy": "group",
                "group_size": group,
            },
            "input_activations": None, "output_activations": None, "format": FORMAT,
        }
        for n in sorted(set(bits.values()))
    }  # fmt: skip
    how = {"quant_method": METHOD, "format": FORMAT, "quantization_status": "compressed"}
    return how | {"config_groups": groups, "ignore": sorted(others)}


def others_of(model: PreTrainedModel, sites: Sequence[Site]) -> dict[str, list[str]]:
    """Names of the linear maps and embeddings outside these sites, by part of the model.

    The parts are `embeddings`, `head` (unless tied to the embeddings), `attention` (maps in decoder
    layers), `vision` (maps in layers before the decoder) and `projector` (other maps before it).
    """
    names = {module: name for name, module in model.named_modules()}
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    found: dict[str, list[str]] = {"embeddings": [names[embeddings]]}
    if head is not None and head.weight is not embeddings.weight:
        found["head"] = [names[head]]
    of_sites = {id(linear) for site in sites for linear in site.maps}
    decoder = {id(module) for module in model.get_decoder().modules()}
    within = {id(m) for module in decoder_layers(model) for m in module.modules()}
    repeated = {
        id(m) for each in model.modules() if isinstance(each, nn.ModuleList) for m in each.modules()
    }
    for module, name in names.items():
        if not isinstance(module, nn.Linear) or id(module) in of_sites or module is head:
            continue
        if id(module) in within:
            found.setdefault("attention", []).append(name)
        elif id(module) not in decoder:
            part = "vision" if id(module) in repeated else "projector"
            found.setdefault(part, []).append(name)
    return found


def fits(shape: Sequence[int], group: int) -> bool:
    """Whether a tensor of this shape can be quantized in such groups; else it stays unquantized.

    The group must divide a row, and a row must fill whole words at 4 and 8 bits.
    """
    return len(shape) == 2 and shape[1] > 0 == shape[1] % group == shape[1] % 8


def weights_of(site: Site) -> list[str]:
    """The names of a site's tensors that are weights of linear maps, `<map>.weight`."""
    return [name for name, tensor in site.tensors().items() if tensor.ndim == 2]


def bits_by_name(
    sites: Sequence[Site], others: Mapping[str, Sequence[str]], bits: Bits
) -> dict[str, int]:
    """Bits of each weight that a plan quantizes, by its name in the model, for any shape.

    `others` is the result of `others_of`. Raises LopError if the plan names a part that is not in
    it.
    """
    found = {
        f"{site.name}.{name}": n
        for site, n in zip(sites, bits.sites, strict=True)
        for name in weights_of(site)
        if n != WHOLE
    }
    for part, n in bits.others:
        if part not in others:
            raise LopError(f"{part!r}: this model has {', '.join(others)} besides its sites")
        found |= {f"{name}.weight": n for name in others[part] if n != WHOLE}
    return found


def show_quantized(site: Site, bits: int, group: int, stored: torch.dtype | None = None) -> None:
    """Replace a site's present weights by their values at `bits`; `stored` as in `dequantized`."""
    for name in weights_of(site) if bits != WHOLE else ():
        owner, _, kind = name.rpartition(".")
        weight = site.tensor(name)
        if fits(weight.shape, group):
            small = nn.Parameter(dequantized(weight, bits, group, stored), requires_grad=False)
            setattr(site.map(owner), kind, small)


class Others:
    """The weights of a model outside its sites, unquantized or at a plan's bits."""

    def __init__(
        self, model: PreTrainedModel, sites: Sequence[Site], stored: torch.dtype | None = None
    ) -> None:
        self.model, self._names, self._stored = model, others_of(model, sites), stored
        self._shown: Bits | None = None
        self._whole: dict[str, Tensor] = {}

    def show(self, bits: Bits | None) -> bool:
        """Set these weights to a plan's bits; returns whether the bits changed."""
        wanted = Bits((), bits.others, bits.group) if bits and bits.others else None
        if wanted == self._shown:
            return False
        for name, weight in self._whole.items():
            self.model.get_parameter(name).data = weight
        self._whole, self._shown = {}, wanted
        if wanted is None:
            return True
        for name, n in bits_by_name([], self._names, wanted).items():
            parameter = self.model.get_parameter(name)  # set its data: tied weights stay tied
            if fits(parameter.shape, wanted.group):
                self._whole[name] = parameter.data
                parameter.data = dequantized(parameter.data, n, wanted.group, self._stored)
        return True
