"""A checkpoint on disk, described tensor by tensor without loading it.

The config and the headers of the safetensors files give the model class, the sizes of its layers,
and whether the files are complete.
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
    """A Hugging Face checkpoint directory (or hub id, if the hub is reachable).

    `files` are the files that `from_pretrained` loads; `index` is the name of the file that lists
    them, for a sharded checkpoint. `tensors` has the tensors by their names in the model. `model`
    is the model on the meta device, or with `mapped` the model with memory-mapped weights. Raises
    LopError if a file is truncated, or the tensors are not those of the config's model.
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
        """The space of the model in a scope, with the default floors."""
        return space_of(self.sites(scope))

    def sites(self, scope: str = "ffn") -> list[Site]:
        """The sites of the model in a scope; see `lop.models.space.find_sites`."""
        return self.ffns if scope == "ffn" else find_sites(self.model, scope)

    @property
    def quantized(self) -> bool:
        """Whether any weight is stored quantized."""
        return any(isinstance(entry, Packed) for entry in self.tensors.values())

    @cached_property
    def parameters(self) -> int:
        """The number of parameters of the model; tied parameters count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @cached_property
    def fingerprint(self) -> str:
        """The `lop.models.fingerprints.fingerprint` of the loaded model; reads only its values."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self.model.named_parameters()):
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
            values = self.tensors[name].values(picks(parameter.numel()))
            digest.update(values.to(parameter.dtype).float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _by_model_name(self, entries: list[Entry]) -> dict[str, Entry]:
        """The tensors by their names in the model.

        Checkpoints may have names of older transformers: rename them as loading does.
        """
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
        # of two tied tensors, the checkpoint may have only one
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
