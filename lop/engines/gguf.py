"""Exports text decoders as GGUF, the format of llama.cpp and programs based on it.

For most architectures llama.cpp supports one FFN width and one head count per model, so the sites
of a pruned model are padded with zeros to the widest site; the outputs are the same. Llama, Mistral
and Qwen 2 are not padded: they are written as `deci`, a Llama whose layers may differ in widths and
heads. A skipped site is then written as one unit of zeros, because llama.cpp's layers without FFN
have no attention either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from lop.engines.vocabulary import add_vocabulary
from lop.errors import LopError
from lop.files import replacing
from lop.models.modeling_lop import layer_sizes
from lop.models.stored import Stored

# By model type: llama.cpp's architecture for a dense model, and for a pruned model.
ARCHITECTURES = {
    "llama": ("llama", "deci"),
    "mistral": ("llama", "deci"),
    "qwen2": ("qwen2", "deci"),
    "qwen3": ("qwen3", "qwen3"),
    "gemma2": ("gemma2", "gemma2"),
    "gemma3_text": ("gemma3", "gemma3"),
}
TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,  # f16 if the row length is no multiple of 32
}
FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}  # llama.cpp's codes for a file's dtype
PATTERN = {"gemma2": 2, "gemma3_text": 6}  # every n-th layer has full attention
NORM_SHIFT = ("gemma2", "gemma3_text")  # their norms multiply by 1 + weight


def export(path: str | Path, out: str | Path, dtype: str = "f16") -> dict[str, Any]:
    """Write a dense or pruned checkpoint as one GGUF file; returns architecture, padding and bytes.

    Weights are read and written one at a time. Raises LopError if llama.cpp cannot run the model.
    """
    made = Model(Stored(path), dtype)
    tensors = list(made.tensors())
    with replacing(out) as tmp:
        writer = gguf.GGUFWriter(tmp, made.arch)
        made.describe(writer)
        add_vocabulary(writer, Path(made.source.folder), made.text.vocab_size)
        for tensor in tensors:
            kind, shape = made.kind(tensor.shape), tensor.shape
            stored = gguf.quant_shape_to_byte_shape(shape, kind)
            of = {
                gguf.GGMLQuantizationType.F32: np.float32,
                gguf.GGMLQuantizationType.F16: np.float16,
            }
            plain = of.get(kind)
            size = int(np.prod(shape)) * np.dtype(plain).itemsize if plain else int(np.prod(stored))
            writer.add_tensor_info(
                tensor.name, shape if plain else stored, np.dtype(plain or np.uint8), size, kind
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(made.encoded(tensor))
        writer.close()
    return {"architecture": made.arch, "padded": made.padded, "bytes": Path(out).stat().st_size}


@dataclass(frozen=True)
class Written:
    """A tensor of the GGUF file: its name, its shape, and the function that reads its values."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


class Model:
    """A stored checkpoint in llama.cpp's form. Raises LopError if llama.cpp has no such model."""

    def __init__(self, source: Stored, dtype: str) -> None:
        self.source, self.dtype = source, dtype
        self.text = source.config.get_text_config()
        if source.config is not self.text or self.text.model_type not in ARCHITECTURES:
            raise LopError(
                f"{source.path}: {source.config.model_type}: expected a text decoder, one of "
                f"{', '.join(ARCHITECTURES)}"
            )
        self.sizes = layer_sizes(self.text)
        whole, pruned = ARCHITECTURES[self.text.model_type]
        self.arch = pruned if self.sizes else whole
        self._check()

    def _check(self) -> None:
        text, path = self.text, self.source.path
        if self.arch != "deci" and any(place["output_bias"] for place, _ in self.sizes.values()):
            raise LopError(f"{path}: has compensation biases; llama.cpp's {self.arch} has none")
        sliding = [kind == "sliding_attention" for kind in getattr(text, "layer_types", None) or ()]
        every = PATTERN.get(text.model_type)
        wanted = [bool(every and (i + 1) % every) for i in range(text.num_hidden_layers)]
        if (sliding or [False] * len(wanted)) != wanted:
            raise LopError(f"{path}: layer_types: expected llama.cpp's pattern for {self.arch}")
        if getattr(text, "sliding_window", None) and not sliding:
            raise LopError(f"{path}: sliding_window: llama.cpp's {self.arch} has none")
        scale = getattr(text, "query_pre_attn_scalar", None)
        if scale not in (None, self.head_size):
            raise LopError(f"{path}: query_pre_attn_scalar {scale}: expected {self.head_size}")
        if self.rope.get("rope_type", "default") not in ("default", "linear", "llama3"):
            raise LopError(f"{path}: rope_type {self.rope['rope_type']}: cannot be written")

    @property
    def padded(self) -> bool:
        """Whether sites are padded with zeros to the widest site."""
        return self.arch != "deci" and any(
            set(units.values()) != {self._whole(kind)} for kind, (_, units) in self.sizes.items()
        )

    def _whole(self, kind: str) -> int:
        return max(self.sizes[kind][1].values())

    @cached_property
    def head_size(self) -> int:
        """The size of an attention head."""
        if "attention" in self.sizes:
            place = self.sizes["attention"][0]
            return int(place["columns"]) // int(place["heads"][0])
        text = self.text
        return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads

    @property
    def rope(self) -> Mapping[str, Any]:
        """The settings of rotary embeddings; those of full attention if there are two kinds."""
        found = self.text.rope_parameters
        return found.get("full_attention", found)

    def units(self, kind: str, layer: int) -> int:
        """The number of a site's units in the file."""
        own = self.sizes[kind][1][layer]
        return max(own, 1) if self.arch == "deci" else self._whole(kind)

    def describe(self, writer: Any) -> None:
        """Write the fields that llama.cpp needs for the architecture."""
        text, layers = self.text, range(self.text.num_hidden_layers)
        writer.add_name(Path(self.source.folder).name)
        writer.add_file_type(FILE_TYPES[self.dtype])
        writer.add_vocab_size(text.vocab_size)
        writer.add_context_length(text.max_position_embeddings)
        writer.add_embedding_length(text.hidden_size)
        writer.add_block_count(len(layers))
        writer.add_layer_norm_rms_eps(text.rms_norm_eps)
        writer.add_key_length(self.head_size)
        writer.add_value_length(self.head_size)
        writer.add_rope_dimension_count(self.head_size)
        writer.add_rope_freq_base(self.rope["rope_theta"])
        if self.rope.get("rope_type") == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(self.rope["factor"])
        if self.text.model_type in PATTERN:
            writer.add_sliding_window(text.sliding_window)
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            if value := getattr(text, name, None):
                getattr(writer, f"add_{name}")(value)
        widths, heads, shared = ([self._size(name, i) for i in layers] for name in SIZES)
        writer.add_feed_forward_length(_one_or_all(widths))
        writer.add_head_count(_one_or_all(heads))
        writer.add_head_count_kv(_one_or_all(shared))

    def _size(self, name: str, layer: int) -> int:
        kind = SIZES[name]
        if kind not in self.sizes:
            return int(getattr(self.text, name))
        units = self.units(kind, layer)
        if kind == "ffn":
            return units
        query, shared = self.sizes[kind][0]["heads"]
        return query * units if name == "num_attention_heads" else max(1, shared * units)

    def tensors(self) -> Iterator[Written]:
        """Every tensor of the file; those of skipped sites are zeros."""
        names = gguf.get_tensor_name_map(
            next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == self.arch),
            self.text.num_hidden_layers,
        )
        tied = getattr(self.source.model, "all_tied_weights_keys", {})
        for key, shape, read in [*self._stored(), *self._missing()]:
            if key in tied:
                continue
            name = names.get_name(key, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise LopError(f"{self.source.path}: llama.cpp's {self.arch} has no tensor {key}")
            yield Written(name, self._filled(key, shape), self._reader(key, read))
        if self.rope.get("rope_type") == "llama3":
            factors = self._rope_factors()
            yield Written("rope_freqs.weight", tuple(factors.shape), lambda: factors)

    def _stored(self) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
        for key, entry in self.source.tensors.items():
            yield key, entry.shape, entry.read

    def _missing(self) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
        """The missing tensors of skipped sites, with the shapes of a layer that has the site."""
        for place, units in self.sizes.values():
            whole = next(layer for layer, count in units.items() if count)
            own = place["module"].format(whole) + "."
            for layer in (layer for layer, count in units.items() if not count):
                for key, entry in self.source.tensors.items():
                    new = place["module"].format(layer) + "." + key.removeprefix(own)
                    if key.startswith(own) and new not in self.source.tensors:
                        yield new, entry.shape, partial(torch.zeros, entry.shape)

    def _filled(self, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A tensor's shape in the file."""
        rows, columns = self._target(key)
        if rows is not None:
            return (rows, *shape[1:])
        return shape if columns is None else (shape[0], columns)

    def _target(self, key: str) -> tuple[int | None, int | None]:
        """The rows and columns of a tensor in the file; None if they do not depend on units."""
        for kind, (place, units) in self.sizes.items():
            for layer in units:
                site = place["module"].format(layer) + "."
                if not key.startswith(site):
                    continue
                linear, _, part = key.removeprefix(site).rpartition(".")
                count = self.units(kind, layer)
                if linear == place["output"] and part == "weight":
                    return None, count * place.get("columns", 1)
                if linear in place["inputs"]:
                    of_all, of_one = place["rows"][linear] if kind == "attention" else (0, 1)
                    return of_all + of_one * count, None
        return None, None

    def _reader(self, key: str, read: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The function that reads a tensor and converts it to the file's form, in float32."""
        layer, linear = _layer(key), key.rpartition(".")[0].rpartition(".")[2]
        rows, columns = self._target(key)
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(linear)

        def made() -> Tensor:
            found = read().float()
            if rows is not None:
                found = _resized(found, rows, 0)
            if columns is not None:
                found = _resized(found, columns, 1)
            if heads and self.arch in ("llama", "deci"):
                found = _interleaved(found, self._size(heads, layer))
            if key.endswith("norm.weight") and self.text.model_type in NORM_SHIFT:
                found = found + 1
            return found

        return made

    def _rope_factors(self) -> Tensor:
        """The factors by which llama.cpp divides rotary frequencies, (head size / 2,)."""
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](self.text, torch.device("cpu"))
        steps = torch.arange(0, self.head_size, 2).float() / self.head_size
        return self.rope["rope_theta"] ** -steps / scaled

    def kind(self, shape: tuple[int, ...]) -> Any:
        """The ggml type in which a tensor of this shape is written."""
        if len(shape) == 1:
            return TYPES["f32"]
        return TYPES["f16" if self.dtype == "q8_0" and shape[-1] % 32 else self.dtype]

    def encoded(self, tensor: Written) -> np.ndarray:
        """A tensor's values in its ggml type."""
        values = tensor.read().contiguous().numpy()
        if self.kind(tensor.shape) == TYPES["f16"] and np.abs(values).max(initial=0) > 65504:
            raise LopError(f"{tensor.name}: has values beyond f16's; expected bf16 or f32")
        return gguf.quantize(values, self.kind(tensor.shape))


SIZES = {
    "intermediate_size": "ffn",
    "num_attention_heads": "attention",
    "num_key_value_heads": "attention",
}


def _one_or_all(values: list[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else values


def _layer(key: str) -> int:
    return next((int(part) for part in key.split(".") if part.isdigit()), 0)


def _resized(tensor: Tensor, size: int, dim: int) -> Tensor:
    """The tensor padded with zeros, or truncated (only tensors of zeros), along a dimension."""
    more = size - tensor.shape[dim]
    return pad(tensor, [0, 0] * (tensor.dim() - 1 - dim) + [0, more])


def _interleaved(tensor: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys in the order of llama.cpp's Llama: the two rows that are rotated
    together are adjacent, not half a head apart."""
    rows = tensor.view(heads, 2, tensor.shape[0] // heads // 2, -1).transpose(1, 2)
    return rows.reshape(tensor.shape)
