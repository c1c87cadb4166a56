"""Loads and saves Hugging Face checkpoints, dense or pruned to a width of its own in each layer.

No code that a checkpoint brings along is ever run, and no pickle is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, is_offline_mode, try_to_load_from_cache
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from lop.errors import LopError
from lop.files import replacing_dir
from lop.models.ffn import describe, find_ffns
from lop.models.modeling_lop import pruned_class, set_layer_widths
from lop.progress import quiet_libraries


def load(
    path: str | Path,
    device_map: str | dict[str, Any] | None = None,
    dtype: torch.dtype | str = "auto",
    **options: Any,
) -> PreTrainedModel:
    """Load a dense or pruned checkpoint from a directory (or a hub id, when a hub answers).

    `options` go to transformers' `from_pretrained`, for example `offload_folder`.

    Raises LopError when there is no such model, or when its weights do not fit its config.
    """
    quiet_libraries()
    config = read_config(path)
    check_safetensors(path)
    try:
        model, info = model_class(config).from_pretrained(
            path,
            config=config,
            device_map=device_map,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise LopError(f"{path}: cannot load the weights: {first_line(error)}") from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if wrong:
        raise LopError(f"{path}: weights do not fit the config, first at {wrong[0]}")
    return model.eval()


def load_spread(path: str | Path) -> PreTrainedModel:
    """Load over the GPUs there are, and offload the rest (`device_map="auto"`); else to the CPU."""
    return load(path, device_map="auto" if torch.cuda.is_available() else None)


def load_processor(path: str | Path) -> ProcessorMixin:
    """The processor (image processor, tokenizer, chat template) that travels with a checkpoint."""
    _check_exists(path)
    try:
        return AutoProcessor.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise LopError(f"{path}: cannot load the processor: {first_line(error)}") from error


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


def record_widths(model: PreTrainedModel, output_bias: bool) -> None:
    """Make a model whose FFNs were cut say so, in its config and its class.

    From then on `save_pretrained` and `push_to_hub` write a checkpoint that loads again. Equal
    widths make an ordinary model of the stock class.
    """
    ffns = find_ffns(model)
    write_widths(model.config, describe(ffns, output_bias), [ffn.width for ffn in ffns])
    model.__class__ = model_class(model.config)


def write_widths(config: PreTrainedConfig, ffn: dict[str, Any], widths: Sequence[int]) -> None:
    """Write to a model's config how wide each layer's FFN is, and which linear maps are."""
    text = config.get_text_config()
    if len(set(widths)) == 1 and not ffn["output_bias"]:
        text.per_layer_config = None
        text.intermediate_size = widths[0]
        return
    set_layer_widths(text, widths)
    text.pruned_ffn = ffn


def fingerprint(model: PreTrainedModel) -> str:
    """Sixteen hex digits over every parameter's name, shape and 32 of its values (in float32).

    Equal for the same weights however they are sharded or placed; cheap for billions of weights.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().flatten()
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(flat[picks(flat.numel()).to(flat.device)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def picks(count: int) -> torch.Tensor:
    """Which of so many values a fingerprint takes in: up to 32, spread evenly."""
    return torch.linspace(0, count - 1, min(32, count), dtype=torch.float64).long()


def read_config(path: str | Path) -> PreTrainedConfig:
    """The config of a checkpoint; LopError when there is none, or none that is understood."""
    _check_exists(path)
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise LopError(f"{path}: cannot read a model config: {first_line(error)}") from error


def check_safetensors(path: str | Path) -> None:
    """Raise LopError when a directory has weights as a pickle only: reading it could run code."""
    folder = Path(path)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        pickles = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
        if pickles:
            raise LopError(
                f"{pickles[0]}: is a pickle, which can run code when it is read; where you trust "
                "it, convert it: AutoModel….from_pretrained(…).save_pretrained(…)"
            )
        raise LopError(f"{path}: no *.safetensors; expected a Hugging Face model directory")


def model_class(config: PreTrainedConfig) -> Any:
    """The class of a config's model: transformers' own, or its pruned variant."""
    for auto in (AutoModelForImageTextToText, AutoModelForCausalLM):
        mapping: Any = auto._model_mapping
        if type(config) in mapping:
            found = mapping[type(config)]
            stock = found[0] if isinstance(found, tuple) else found
            heterogeneous = config.get_text_config().is_heterogeneous
            return pruned_class(stock) if heterogeneous else stock
    raise LopError(
        f"model type {config.model_type!r}: expected an image-text-to-text or a causal language "
        "model that transformers has"
    )


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
        reason = first_line(error)
        raise LopError(f"{name}: no such directory, and not on the hub: {reason}") from error


def read_json(path: Path) -> Any:
    """Parse a JSON file, or raise LopError naming it."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise LopError(f"{path}: cannot read JSON: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message: what a user wants to read of it."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
