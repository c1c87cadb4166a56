"""Loads and saves Hugging Face checkpoints, dense or pruned to a width of its own in each layer.

The widths stand in the text config as `per_layer_config`, transformers' convention for
heterogeneous models. The stock classes read one global width and refuse such a config, so `load`
builds the stock class at that width and resizes its FFNs before any weight is read.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, is_offline_mode, try_to_load_from_cache
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from lop.errors import LopError
from lop.files import replacing_dir
from lop.models.ffn import find_ffns, resize
from lop.progress import quiet_libraries


def load(
    path: str | Path,
    device_map: str | dict[str, Any] | None = None,
    dtype: torch.dtype | str = "auto",
) -> PreTrainedModel:
    """Load a dense or pruned checkpoint from a directory (or a hub id, when a hub answers).

    Raises LopError when there is no such model, or when its weights do not fit its config.
    """
    quiet_libraries()
    config = read_config(path)
    cls = _model_class(config)
    if config.get_text_config().is_heterogeneous:
        cls = _pruned_class(cls)
    try:
        model, info = cls.from_pretrained(
            path, config=config, device_map=device_map, dtype=dtype, output_loading_info=True
        )
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise LopError(f"{path}: cannot load the weights: {_first_line(error)}") from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if wrong:
        raise LopError(f"{path}: weights do not fit the config, first at {wrong[0]}")
    return model.eval()


def load_processor(path: str | Path) -> ProcessorMixin:
    """The processor (image processor, tokenizer, chat template) that travels with a checkpoint."""
    _check_exists(path)
    try:
        return AutoProcessor.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise LopError(f"{path}: cannot load the processor: {_first_line(error)}") from error


def save(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    out: str | Path,
    extra: dict[str, str] | None = None,
) -> None:
    """Write model, processor and `extra` text files (name -> text) to directory `out`, whole."""
    with replacing_dir(out, like="config.json") as tmp:
        model.save_pretrained(tmp, max_shard_size="4GB")
        processor.save_pretrained(tmp)
        for name, text in (extra or {}).items():
            (tmp / name).write_text(text)


def set_widths(model: PreTrainedModel, output_bias: bool) -> None:
    """Record the FFN widths that `model` now has in its text config."""
    text = model.config.get_text_config()
    widths = [ffn.width for ffn in find_ffns(model)]
    text.per_layer_config = {i: {"intermediate_size": width} for i, width in enumerate(widths)}
    text.ffn_output_bias = output_bias


def fingerprint(model: PreTrainedModel) -> str:
    """Sixteen hex digits over every parameter's name, shape and 32 of its values (in float32).

    Equal for the same weights however they are sharded or placed; cheap for billions of weights.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().flatten()
        pick = torch.linspace(0, flat.numel() - 1, min(32, flat.numel())).long().to(flat.device)
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(flat[pick].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def read_config(path: str | Path) -> PreTrainedConfig:
    """The config of a model directory, or of a hub id; LopError when there is none."""
    _check_exists(path)
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise LopError(f"{path}: cannot read a model config: {_first_line(error)}") from error


def _check_exists(path: str | Path) -> None:
    if Path(path).is_dir():
        if not (Path(path) / "config.json").exists():
            raise LopError(f"{path}: no config.json; expected a Hugging Face model directory")
    elif isinstance(path, Path) or path.count("/") != 1 or path.startswith((".", "/")):
        raise LopError(f"{path}: no such model directory")
    elif not isinstance(try_to_load_from_cache(path, "config.json"), str):
        _check_hub(path)


def _check_hub(name: str) -> None:
    """Fail at once where transformers would try again for half a minute."""
    if is_offline_mode():
        raise LopError(f"{name}: no such directory, and the hub is switched off (HF_HUB_OFFLINE)")
    try:
        HfApi().model_info(name, timeout=10)
    except Exception as error:  # the client's transport errors share no base across its versions
        reason = _first_line(error)
        raise LopError(f"{name}: no such directory, and not on the hub: {reason}") from error


def _model_class(config: PreTrainedConfig) -> Any:
    mapping: Any = AutoModelForImageTextToText._model_mapping
    if type(config) not in mapping:
        raise LopError(f"model type {config.model_type!r} is not an image-text-to-text model")
    return mapping[type(config)]


def _pruned_class(cls: Any) -> Any:
    """A class of the same name that builds `cls` at its global width, then resizes its FFNs."""

    def init(self: PreTrainedModel, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        text = config.get_text_config()
        widths = [layer.intermediate_size for layer in text.per_layer_config]
        text.per_layer_config = None
        cls.__init__(self, config, *args, **kwargs)
        resize(find_ffns(self), widths, getattr(text, "ffn_output_bias", False))
        text.per_layer_config = {i: {"intermediate_size": w} for i, w in enumerate(widths)}

    return type(cls.__name__, (cls,), {"__init__": init, "__module__": cls.__module__})


def read_json(path: Path) -> Any:
    """Parse a JSON file, or raise LopError naming it."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LopError(f"{path}: cannot read JSON: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
