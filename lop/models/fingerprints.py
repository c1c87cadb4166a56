"""Fingerprints of the inputs of results: everything that can change a number is in one of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from lop.files import content_digest

# config entries about its origin, which change no number
ORIGIN = ("_name_or_path", "transformers_version", "_commit_hash")


def digest(*parts: Any) -> str:
    """Twelve hex digits over tensors and JSON values, in this order."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            values = part.detach().cpu().contiguous()
            found.update(f"{values.dtype}{tuple(values.shape)}".encode())
            found.update(values.flatten().view(torch.uint8).numpy().tobytes())
        else:
            found.update(json.dumps(part, sort_keys=True).encode() + b"\n")
    return found.hexdigest()[:12]


def fingerprint(model: PreTrainedModel) -> str:
    """Sixteen hex digits over every parameter's name, shape and 32 of its values (in float32).

    It does not depend on shards or devices, and is fast for billions of weights.
    """
    found = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().flatten()
        found.update(f"{name}{tuple(parameter.shape)}".encode())
        found.update(flat[picks(flat.numel()).to(flat.device)].float().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def picks(count: int) -> Tensor:
    """The indices of the values that a fingerprint includes: up to 32 of `count`, evenly spread."""
    return torch.linspace(0, count - 1, min(32, count), dtype=torch.float64).long()


def how_asked(model: PreTrainedModel, processor: ProcessorMixin) -> str:
    """Twelve hex digits over everything besides weights and samples that affects the answers.

    That is the config, dtype, generation config and processor (tokenizer, chat template, image
    processor).
    """
    configs = [_plain(c.to_dict()) for c in (model.config, model.generation_config) if c]
    with TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        return digest(configs, str(model.dtype), content_digest(folder))


def _plain(value: Any) -> Any:
    """A config's values as JSON values, without those in `ORIGIN`."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if k not in ORIGIN}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
