"""A checkpoint on disk, known tensor by tensor without being loaded.

What a model of any size is, how wide its layers are and whether its files are whole, all stands in
its config and in the headers of its safetensors files.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, rename_source_key

from lop.errors import LopError
from lop.models.checkpoint import read_config, with_mapped_weights, without_weights
from lop.models.fingerprints import picks
from lop.models.quantized import Packed, unpacked
from lop.models.site import Site
from lop.models.space import find_sites, space_of
from lop.models.weights import Entry, one_line, read_header, weight_files
from lop.plan import Space


class Stored:
    """A Hugging Face checkpoint directory (or hub id, when a hub answers).

    `files` are those that `from_pretrained` loads, `index` is the name of the one that lists them
    where it is sharded; `tensors` has each by the name that the model gives it; `model` is the
    model as loading makes it, on the meta device or, where `mapped`, with its weights in the files
    until they are used. Raises LopError when a file is cut short, or
    when the tensors are not those of the model that the config describes.
    """

    def __init__(self, path: str | Path, mapped: bool = False) -> None:
        self.path = path
        self.config = read_config(path)
        self.folder = _on_disk(path)
        self.files, self.index = weight_files(self.folder, self.config)
        entries = unpacked([entry for file in self.files for entry in read_header(file)])
        build = with_mapped_weights if mapped else without_weights
        self.model: PreTrainedModel = build(path, self.config, entries)
        self.ffns: list[Site] = find_sites(self.model)
        self.tensors = self._by_model_name(entries)

    def space(self, scope: str = "ffn") -> Space:
        """What can be cut of it in a scope, with the usual floors."""
        return space_of(self.sites(scope))

    def sites(self, scope: str = "ffn") -> list[Site]:
        """What is prunable in a scope, as `lop.models.space.find_sites` has it."""
        return self.ffns if scope == "ffn" else find_sites(self.model, scope)

    @property
    def quantized(self) -> bool:
        """Whether weights are stored at fewer bits than they have in the model."""
        return any(isinstance(entry, Packed) for entry in self.tensors.values())

    @cached_property
    def parameters(self) -> int:
        """Parameters of the model; tied ones count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @cached_property
    def fingerprint(self) -> str:
        """That of the loaded model, `lop.models.fingerprints.fingerprint`, read value by value."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self.model.named_parameters()):
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
            values = self.tensors[name].values(picks(parameter.numel()))
            digest.update(values.to(parameter.dtype).float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _by_model_name(self, entries: list[Entry]) -> dict[str, Entry]:
        """Checkpoints have kept the names of older transformers: rename them as loading does."""
        transforms: list[Any] = get_model_conversion_mapping(self.model)
        converters = [t for t in transforms if isinstance(t, WeightConverter)]
        renamings = [t for t in transforms if not isinstance(t, WeightConverter)]
        prefix, state = self.model.base_model_prefix, self.model.state_dict()
        named = {}
        for entry in sorted(entries, key=lambda entry: entry.key):
            name, converter = rename_source_key(entry.key, renamings, converters, prefix, state)
            if name not in state and entry.key in state:
                name, converter = rename_source_key(entry.key, [], [], prefix, state)
            if converter:
                raise LopError(
                    f"{entry.file}: {entry.key} is converted while it is loaded, which lop cannot "
                    "do file by file: load, prune and save the model in Python"
                )
            named[name] = entry
        # of two that are tied, loading takes what there is
        tied: dict[str, str] = getattr(self.model, "all_tied_weights_keys", {})
        for one, other in (*tied.items(), *((b, a) for a, b in tied.items())):
            if one not in named and other in named:
                named[one] = named[other]
        return named


def _on_disk(path: str | Path) -> Path:
    if Path(path).is_dir():
        return Path(path)
    wanted = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
    with one_line(f"{path}: cannot fetch it from the hub"):
        return Path(snapshot_download(str(path), allow_patterns=wanted))
