"""Loads and saves Hugging Face checkpoints, dense or pruned to a width of its own in each layer.

No code that a checkpoint brings along is ever run, and no pickle is opened.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, is_offline_mode, try_to_load_from_cache
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from lop.errors import LopError, first_line
from lop.files import Kind, replacing_dir
from lop.models.ffn import describe, find_ffns
from lop.models.modeling_lop import (
    WIDTH,
    forget_widths,
    is_ours,
    is_pruned,
    pruned_class,
    set_layer_widths,
)
from lop.models.weights import (
    DTYPES,
    Entry,
    check_folder,
    one_line,
    read_header,
    weight_files,
)
from lop.progress import quiet_libraries

SAVED = Kind(
    "a model that lop saved",
    ("lop.json",),
    frozenset({"saved_by_lop"}),
    folders=("additional_chat_templates",),
)


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
    if Path(path).is_dir():
        files, _ = weight_files(Path(path), config, options.get("variant"))
        without_weights(path, config, [entry for file in files for entry in read_header(file)])
    with one_line(f"{path}: cannot load the weights"):
        model, info = model_class(config).from_pretrained(
            path,
            config=config,
            device_map=device_map,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    _check_fit(path, info)
    return model.eval()


def without_weights(
    path: str | Path, config: PreTrainedConfig, entries: Sequence[Entry]
) -> PreTrainedModel:
    """The model that loading these tensors makes, with all its rules, but on the meta device.

    Nothing is read and no memory is taken. Raises LopError when the tensors are not those that
    the config asks for.
    """
    quiet_libraries()
    _check_depth(path, config, len(entries))
    state = {
        entry.key: torch.empty(entry.shape, dtype=DTYPES[entry.dtype], device="meta")
        for entry in entries
    }
    with one_line(f"{path}: config and weights make no model"):
        model, info = model_class(config).from_pretrained(
            None,
            config=config,
            state_dict=state,
            device_map={"": "meta"},
            dtype="auto",
            ignore_mismatched_sizes=True,  # and named below
            output_loading_info=True,
        )
    _check_fit(path, info)
    return model


def _check_depth(path: str | Path, config: PreTrainedConfig, tensors: int) -> None:
    """Refuse a config that asks for far more layers than there are tensors: they would be built."""
    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    for part in parts:
        layers = getattr(part, "num_hidden_layers", None) or getattr(part, "depth", None)
        if isinstance(layers, int) and layers > max(tensors, 1):
            raise LopError(
                f"{path}: the config asks for {layers} layers, the files hold {tensors} tensors"
            )


def _check_fit(path: str | Path, info: Mapping[str, Any]) -> None:
    for name in sorted(info["missing_keys"]):
        raise LopError(f"{path}: no tensor {name}, which the config asks for")
    for name, found, asked in sorted(info["mismatched_keys"]):
        raise LopError(f"{path}: {name} has shape {list(found)}, the config asks for {list(asked)}")
    for name in sorted(info["unexpected_keys"]):
        raise LopError(f"{path}: {name} has no place in the config's model")


def load_spread(path: str | Path) -> PreTrainedModel:
    """Load over the GPUs there are, and offload the rest (`device_map="auto"`); else to the CPU."""
    return load(path, device_map="auto" if torch.cuda.is_available() else None)


def load_processor(path: str | Path) -> ProcessorMixin:
    """The processor (image processor, tokenizer, chat template) that travels with a checkpoint."""
    _check_exists(path)
    with one_line(f"{path}: cannot load the processor"):
        processor = AutoProcessor.from_pretrained(path)
        _check_vocabulary(Path(path), getattr(processor, "tokenizer", processor))
        return processor


def _check_vocabulary(folder: Path, tokenizer: Any) -> None:
    """Raise LopError where transformers has made a tokenizer that knows no word."""
    files = set(getattr(tokenizer, "vocab_files_names", {}).values())
    if folder.is_dir() and files and not any((folder / name).is_file() for name in files):
        raise LopError(f"{folder}: no vocabulary; expected {' or '.join(sorted(files))}")


def save(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    out: str | Path,
    extra: dict[str, str] | None = None,
) -> None:
    """Write model, processor and `extra` text files (name -> text) to directory `out`, whole.

    transformers writes the config, as its version does; `lop.pruning.prune_checkpoint` changes
    only the widths in the config that is there. Its lop.json says that lop wrote it: no other model
    is replaced by one, LopError.
    """
    with replacing_dir(out, SAVED) as tmp:
        (tmp / SAVED.files[0]).write_text('{"saved_by_lop": true}\n')
        model.save_pretrained(tmp, max_shard_size="4GB")
        processor.save_pretrained(tmp)
        for name, text in (extra or {}).items():
            (tmp / name).write_text(text)


def record_widths(model: PreTrainedModel) -> None:
    """Make a model whose FFNs were cut say so, in its config and its class.

    From then on `save_pretrained` and `push_to_hub` write a checkpoint that loads again. Where
    the stock class makes these very tensors from a config with one width, it is a model of that
    class. Else the config says each layer's width, and whether output maps have got biases that
    the architecture has not.
    """
    ffns = find_ffns(model)
    widths = [ffn.width for ffn in ffns]
    text = model.config.get_text_config()
    forget_widths(text)
    by_nature = text.per_layer_attributes or ()
    before = None if WIDTH in by_nature else getattr(text, WIDTH, None)
    if len(set(widths)) == 1 and before is not None:
        setattr(text, WIDTH, widths[0])
    stock = model_class(model.config)
    with torch.device("meta"), one_line(f"{stock.__name__}: cannot be built from its config"):
        made = _shapes(stock(copy.deepcopy(model.config)))
    if made == _shapes(model):
        _forget_class(model.config)
    else:
        if before is not None:
            setattr(text, WIDTH, before)
        biases = [f"{ffn.name}.{ffn.output}.bias" for ffn in ffns if ffn.down.bias is not None]
        added = any(name not in made for name in biases)
        set_layer_widths(text, widths, describe(ffns, output_bias=added))
    model.__class__ = model_class(model.config)


def _forget_class(config: PreTrainedConfig) -> None:
    """Drop our own modelling file from a config's `auto_map`, as it is of no use any more."""
    others = {k: v for k, v in (getattr(config, "auto_map", None) or {}).items() if not is_ours(v)}
    if others:
        config.auto_map = others
    elif hasattr(config, "auto_map"):
        del config.auto_map


def _shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def read_config(path: str | Path) -> PreTrainedConfig:
    """The config of a checkpoint.

    Raises LopError when there is none, none that is understood, or that of a quantized model.
    """
    _check_exists(path)
    with one_line(f"{path}: cannot read a model config"):
        config = AutoConfig.from_pretrained(path)
        for part in (config, config.get_text_config()):
            if method := quantization(part):
                raise LopError(f"{path}: is quantized ({method}); expected the model before that")
        if not isinstance(getattr(config, "auto_map", None) or {}, dict):
            raise LopError(f"{path}: auto_map is no object of class names")
        return config


def quantization(config: PreTrainedConfig) -> str | None:
    """By which method a config says that its model is quantized."""
    how = dict(getattr(config, "quantization_config", None) or {})
    # bitsandbytes did not always say its name
    return str(how.get("quant_method") or "bitsandbytes") if how else None


def model_class(config: PreTrainedConfig) -> Any:
    """The class of a config's model: transformers' own, or its pruned variant."""
    for auto in (AutoModelForImageTextToText, AutoModelForCausalLM):
        mapping: Any = auto._model_mapping
        if type(config) in mapping:
            found = mapping[type(config)]
            stock = found[0] if isinstance(found, tuple) else found
            return pruned_class(stock) if is_pruned(config.get_text_config()) else stock
    raise LopError(
        f"model type {config.model_type!r}: expected an image-text-to-text or a causal language "
        "model that transformers has"
    )


def _check_exists(path: str | Path) -> None:
    if Path(path).is_dir():
        if not (Path(path) / "config.json").exists():
            raise LopError(f"{path}: no config.json; expected a Hugging Face model directory")
        check_folder(Path(path))
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
