"""The files of a predictor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from stat import S_ISDIR
from typing import Any, ClassVar, Self, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lop.errors import LopError
from lop.files import Kind, replacing_dir


class Trained:
    """A network that was trained for one model, made from a config with its fingerprint."""

    KIND: ClassVar[Kind]
    config: Any  # a dataclass with `model_fingerprint`
    network: nn.Module

    def __init__(self, config: Any) -> None:
        raise NotImplementedError

    def of_model(self, model_fingerprint: str) -> Self:
        """The same for the same model with its units reordered, whose weights have this
        fingerprint."""
        other = type(self)(replace(self.config, model_fingerprint=model_fingerprint))
        other.network.load_state_dict(self.network.state_dict())
        return other

    def save_pretrained(self, path: str | Path) -> None:
        """Write `config.json` and `model.safetensors` to the directory `path`, atomically."""
        with replacing_dir(path, self.KIND) as tmp:
            (tmp / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")
            save_file(self.network.state_dict(), tmp / "model.safetensors")


T = TypeVar("T", bound=Trained)


def with_weights(path: Path, make: Callable[[], T]) -> T:
    """What `make` builds from a config, with the weights in the directory `path`; LopError, also of
    `make`, for what does not fit."""
    try:
        with torch.device("meta"):  # shapes without memory, however large the config's numbers are
            expected = make().network.state_dict()
    except LopError as error:
        raise LopError(f"{path}/config.json: {error}") from error
    weights = _read_weights(path / "model.safetensors", expected)
    made = make()
    made.network.load_state_dict(weights)
    return made


def check_directory(path: Path) -> None:
    """Raise LopError unless `path` is a directory that can be read."""
    try:
        is_directory = S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        is_directory = False
    except OSError as error:
        raise LopError(f"{path}: cannot read it: {error.strerror}") from error
    if not is_directory:
        raise LopError(f"{path}: no such predictor directory")


def _read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors; LopError unless names and shapes are as expected and all numbers
    finite."""
    weights = {}
    try:
        path.open("rb").close()  # safetensors says "no such file" of any that it cannot open
        with safe_open(path, "pt") as file:
            for name in sorted(set(file.keys()) ^ set(expected)):
                wrong = "is missing" if name in expected else "is not a tensor of this network"
                raise LopError(f"{path}: {name} {wrong}")
            for name, tensor in expected.items():
                shape = list(file.get_slice(name).get_shape())
                if shape != list(tensor.shape):
                    raise LopError(f"{path}: {name}: shape {shape}, expected {list(tensor.shape)}")
                weights[name] = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LopError(f"{path}: cannot read it: {reason}") from error
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise LopError(f"{path}: {name}: expected finite numbers")
    return weights
