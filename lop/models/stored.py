"""A checkpoint on disk, known tensor by tensor without being loaded.

What a model of any size is, how wide its layers are and whether its files are whole, all stands in
its config and in the headers of its safetensors files.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, rename_source_key

from lop.errors import LopError
from lop.models.checkpoint import (
    check_safetensors,
    first_line,
    model_class,
    picks,
    read_config,
    read_json,
)
from lop.models.ffn import FFN, find_ffns

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Entry:
    """One tensor of a safetensors file, where its bytes begin, and how many they are."""

    key: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    def read(self) -> Tensor:
        """The tensor, read from the file as it is used."""
        raw = mapped(self.file, self.start, self.size)
        return torch.from_numpy(raw).view(DTYPES[self.dtype]).view(self.shape)

    def values(self, places: Tensor) -> Tensor:
        """Single values of the flattened tensor, (n,) -> (n,), and nothing else of it."""
        dtype = DTYPES[self.dtype]
        with self.file.open("rb") as file:
            parts = []
            for place in places.tolist():
                file.seek(self.start + place * dtype.itemsize)
                parts.append(file.read(dtype.itemsize))
        return torch.frombuffer(bytearray(b"".join(parts)), dtype=dtype)


class Stored:
    """A Hugging Face checkpoint directory (or hub id, when a hub answers).

    `tensors` has each by the name that the model gives it. Raises LopError when a file is cut
    short, or when the tensors are not those of the model that the config describes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.config = read_config(path)
        self.folder = _on_disk(path)
        check_safetensors(self.folder)
        self.files = _files(self.folder)
        with torch.device("meta"):
            self.model: PreTrainedModel = model_class(self.config)(self.config)
        self.ffns: list[FFN] = find_ffns(self.model)
        self.tensors = self._by_model_name([e for file in self.files for e in read_header(file)])
        self._check()

    @property
    def widths(self) -> tuple[int, ...]:
        """Intermediate neurons of each decoder layer, shape (L,)."""
        return tuple(ffn.width for ffn in self.ffns)

    @cached_property
    def parameters(self) -> int:
        """Parameters of the model; tied ones count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def neuron_parameters(self) -> int:
        """Parameters that go with one FFN neuron."""
        ffn = self.ffns[0]
        inputs = sum(t.numel() for t in ffn.input_tensors().values())
        return inputs // ffn.width + ffn.down.out_features

    @cached_property
    def fingerprint(self) -> str:
        """That of the loaded model, `lop.models.checkpoint.fingerprint`, read value by value."""
        dtype, digest = self.config.dtype, hashlib.sha256()
        for name, parameter in sorted(self.model.named_parameters()):
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
            values = self.tensors[name].values(picks(parameter.numel()))
            digest.update((values.to(dtype) if dtype else values).float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _by_model_name(self, entries: list[Entry]) -> dict[str, Entry]:
        """Checkpoints have kept the names of older transformers: rename them as loading does."""
        transforms: list[Any] = get_model_conversion_mapping(self.model)
        converters = [t for t in transforms if isinstance(t, WeightConverter)]
        renamings = [t for t in transforms if not isinstance(t, WeightConverter)]
        state, prefix = self.model.state_dict(), self.model.base_model_prefix
        named = {}
        for entry in sorted(entries, key=lambda entry: entry.key):
            name, converter = rename_source_key(entry.key, renamings, converters, prefix, state)
            if converter:
                raise LopError(
                    f"{entry.file}: {entry.key} is converted while it is loaded, which lop cannot "
                    "do file by file: load, prune and save the model in Python"
                )
            named[name] = entry
        return named

    def _check(self) -> None:
        state, shapes = self.model.state_dict(), dict(self.model.named_parameters())
        for name, parameter in shapes.items():
            if name not in self.tensors:
                raise LopError(f"{self.path}: no tensor {name}, which the config asks for")
            entry = self.tensors[name]
            if entry.shape != tuple(parameter.shape):
                raise LopError(
                    f"{entry.file}: {entry.key} has shape {list(entry.shape)}, "
                    f"the config asks for {list(parameter.shape)}"
                )
        ignored = self.model._keys_to_ignore_on_load_unexpected or ()
        for name, entry in self.tensors.items():
            if name not in state and not any(re.search(pattern, name) for pattern in ignored):
                raise LopError(f"{entry.file}: {entry.key} has no place in the config's model")


def mapped(file: Path, start: int, size: int) -> np.ndarray:
    """Bytes of a file without a copy of them; they may be written to, which leaves the file."""
    return np.memmap(file, np.uint8, "c", start, (size,)) if size else np.empty(0, np.uint8)


def read_header(file: Path) -> list[Entry]:
    """The tensors of a safetensors file; LopError when it is no such file, or not whole."""
    size = file.stat().st_size
    try:
        with file.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            if not 0 < length <= size - 8:
                raise ValueError("its header is cut short")
            header = json.loads(raw.read(length))
        header.pop("__metadata__", None)
        entries = []
        for key, info in header.items():
            begin, end = info["data_offsets"]
            entry = Entry(
                key, file, info["dtype"], tuple(info["shape"]), 8 + length + begin, end - begin
            )
            if entry.start + entry.size > size:
                raise ValueError(f"{key} is cut short")
            if entry.dtype not in DTYPES:
                raise ValueError(f"{key} is of {entry.dtype}; expected {', '.join(DTYPES)}")
            entries.append(entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LopError(f"{file}: cannot read safetensors: {first_line(error)}") from error
    return sorted(entries, key=lambda entry: entry.start)


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, whether it is one or sharded."""
    if (folder / INDEX).exists():
        names = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    for name in names:
        if not (folder / name).is_file():
            raise LopError(f"{folder / name}: no such file; the checkpoint is not whole")
    return [folder / name for name in names]


def _on_disk(path: str | Path) -> Path:
    if Path(path).is_dir():
        return Path(path)
    try:
        return Path(
            snapshot_download(
                str(path), allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
            )
        )
    except Exception as error:  # the client's errors share no base across its versions
        raise LopError(f"{path}: cannot fetch it from the hub: {first_line(error)}") from error
