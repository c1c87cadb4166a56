"""Loads and saves Hugging Face checkpoints: dense, or pruned to a different size in each layer.

Code and pickles in a checkpoint are never run or opened.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, is_offline_mode, try_to_load_from_cache
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from lop.errors import LopError, first_line
from lop.files import Kind, replacing_dir
from lop.models.modeling_lop import (
    HEADS,
    KV_HEADS,
    WIDTH,
    Sizes,
    forget_sizes,
    is_ours,
    is_pruned,
    pruned_class,
    set_layer_sizes,
)
from lop.models.quantized import Packed, understood, unpacked
from lop.models.site import Site
from lop.models.space import describe, find_sites, skipped_layers
from lop.models.weights import (
    DTYPES,
    Entry,
    check_folder,
    mapped,
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
    """Load a dense or pruned checkpoint from a directory (or a hub id, if the hub is reachable).

    Quantized weights are loaded dequantized. `options` go to transformers' `from_pretrained`, for
    example `offload_folder`.

    Raises LopError if there is no such model, or its weights do not fit its config.
    """
    quiet_libraries()
    config = read_config(path)
    if Path(path).is_dir():
        files, _ = weight_files(Path(path), config, options.get("variant"))
        entries = unpacked([entry for file in files for entry in read_header(file)])
        if any(isinstance(entry, Packed) for entry in entries):
            state = {entry.key: entry.read() for entry in entries}
            return _with_state(path, config, state, device_map=device_map, dtype=dtype)
        without_weights(path, config, entries)
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
    """Build the model of these tensors with `from_pretrained`'s rules, on the meta device.

    No tensor is read and no memory is used. Raises LopError if the tensors are not those of the
    config.
    """
    state = {
        entry.key: torch.empty(entry.shape, dtype=DTYPES[entry.dtype], device="meta")
        for entry in entries
    }
    return _made_of(path, config, state, device_map={"": "meta"})


def with_mapped_weights(
    path: str | Path, config: PreTrainedConfig, entries: Sequence[Entry]
) -> PreTrainedModel:
    """Build the model of these tensors, with its weights memory-mapped from the files.

    A weight is read when it is first used, and takes memory from then on. Raises LopError as
    `without_weights` does.
    """
    files = {entry.file for entry in entries}
    whole = {file: mapped(file, 0, file.stat().st_size) for file in files}
    state = {entry.key: entry.read(whole[entry.file]) for entry in entries}
    return _with_state(path, config, state)


def _with_state(
    path: str | Path, config: PreTrainedConfig, state: dict[str, Tensor], **options: Any
) -> PreTrainedModel:
    """Build the model of a checkpoint's tensors, as `from_pretrained` builds it from the files."""
    if (Path(path) / "generation_config.json").is_file():
        with one_line(f"{path}: cannot read generation_config.json"):
            options["generation_config"] = GenerationConfig.from_pretrained(path)
    model = _made_of(path, config, state, **options)
    model.name_or_path = model.config.name_or_path = str(path)
    return model.eval()


def _made_of(
    path: str | Path, config: PreTrainedConfig, state: dict[str, Tensor], **options: Any
) -> PreTrainedModel:
    quiet_libraries()
    _check_depth(path, config, len(state))
    with one_line(f"{path}: config and weights make no model"):
        model, info = model_class(config).from_pretrained(
            None,
            config=config,
            state_dict=state,
            ignore_mismatched_sizes=True,  # `_check_fit` raises for them
            output_loading_info=True,
            **{"dtype": "auto"} | options,
        )
    _check_fit(path, info)
    return model


def _check_depth(path: str | Path, config: PreTrainedConfig, tensors: int) -> None:
    """Raise LopError for a config with far more layers than tensors, before they are built."""
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
        raise LopError(f"{path}: tensor {name} is not in the config's model")


def load_spread(path: str | Path) -> PreTrainedModel:
    """Load across all GPUs and offload the rest (`device_map="auto"`); else to the CPU."""
    return load(path, device_map="auto" if torch.cuda.is_available() else None)


def load_processor(path: str | Path) -> ProcessorMixin:
    """The processor (image processor, tokenizer, chat template) of a checkpoint."""
    return _loaded(path, "processor", AutoProcessor)


def load_tokenizer(path: str | Path) -> Any:
    """The tokenizer of a checkpoint; a text model may have no other processor."""
    return _loaded(path, "tokenizer", AutoTokenizer)


def _loaded(path: str | Path, name: str, auto: Any) -> Any:
    _check_exists(path)
    with one_line(f"{path}: cannot load the {name}"):
        found = auto.from_pretrained(path)
        _check_vocabulary(Path(path), getattr(found, "tokenizer", found))
        return found


def _check_vocabulary(folder: Path, tokenizer: Any) -> None:
    """Raise LopError if there is no vocabulary: transformers then makes an empty tokenizer."""
    files = set(getattr(tokenizer, "vocab_files_names", {}).values())
    if folder.is_dir() and files and not any((folder / name).is_file() for name in files):
        raise LopError(f"{folder}: no vocabulary; expected {' or '.join(sorted(files))}")


def save(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    out: str | Path,
    extra: dict[str, str] | None = None,
) -> None:
    """Write model, processor and `extra` text files (name -> text) to directory `out`, atomically.

    transformers writes the config in the form of its version; `lop.pruning.prune_checkpoint`
    changes only the sizes in the existing config. lop.json marks the directory as written by lop:
    only such a directory is replaced, else LopError.
    """
    with replacing_dir(out, SAVED) as tmp:
        (tmp / SAVED.files[0]).write_text('{"saved_by_lop": true}\n')
        model.save_pretrained(tmp, max_shard_size="4GB")
        processor.save_pretrained(tmp)
        for name, text in (extra or {}).items():
            (tmp / name).write_text(text)


def record_sizes(model: PreTrainedModel) -> None:
    """Set the config and class of a model whose sites were cut to its present sizes.

    `save_pretrained` and `push_to_hub` then write a checkpoint that can be loaded. If the stock
    class with one global size per kind builds exactly these tensors, the model gets that class.
    Else the config gets each layer's sizes, and whether output maps have biases that the
    architecture does not have.
    """
    sites = _all_sites(model)
    text = model.config.get_text_config()
    forget_sizes(text)
    by_nature = text.per_layer_attributes or ()
    ours = {n: getattr(text, n, None) for n in (WIDTH, HEADS, KV_HEADS) if n not in by_nature}
    before = {name: value for name, value in ours.items() if value is not None}
    _set(text, _one_size(sites, before, text.num_hidden_layers))
    shapes = _shapes(model)
    if _stock_shapes(model.config) == shapes:
        _forget_class(model.config)
    else:
        _set(text, before)
        made = _stock_shapes(model.config)
        set_layer_sizes(text, _sizes(model, sites, made, shapes))
    model.__class__ = model_class(model.config)


def _all_sites(model: PreTrainedModel) -> list[Site]:
    """All sites, without the warning about attention that lop cannot prune."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return find_sites(model, "ffn+attention")


def _set(text: Any, values: Mapping[str, int]) -> None:
    for name, value in values.items():
        setattr(text, name, value)


def _one_size(sites: Sequence[Site], before: Mapping[str, int], layers: int) -> dict[str, int]:
    """The global config values of each kind of site that has one size in all layers."""
    found: dict[str, int] = {}
    for kind in ("ffn", "attention"):
        each = [site for site in sites if site.kind == kind]
        if len(each) == layers and len({site.units for site in each}) == 1:
            query, shared = each[0].heads
            found |= {WIDTH: each[0].units} if kind == "ffn" else {HEADS: query * each[0].units}
            found |= {KV_HEADS: max(1, shared * each[0].units)} if query else {}
    return {name: value for name, value in found.items() if name in before}


def _sizes(
    model: PreTrainedModel,
    sites: Sequence[Site],
    made: Mapping[str, torch.Size],
    shapes: Mapping[str, torch.Size],
) -> Sizes:
    """The sizes of each kind of site that differs from what the stock class builds."""
    sizes: Sizes = {}
    for kind in ("ffn", "attention"):
        each = [site for site in sites if site.kind == kind]
        gone = skipped_layers(model, kind)
        if not each:
            if gone:
                raise LopError(f"no {kind} is left in any layer: expected at least one")
            continue
        names = tuple(f"{site.name}." for site in each)
        own = [name for name in shapes if name.startswith(names)]
        if not gone and all(made.get(name) == shapes[name] for name in own):
            continue
        biases = [f"{site.name}.{site.output}.bias" for site in each]
        added = any(name in shapes and name not in made for name in biases)
        units = {site.layer: site.units for site in each} | dict.fromkeys(gone, 0)
        place = describe(each, output_bias=added)
        if len(units) < model.config.get_text_config().num_hidden_layers:
            place["layers"] = sorted(units)
        sizes[kind] = place, dict(sorted(units.items()))
    return sizes


def _stock_shapes(config: PreTrainedConfig) -> dict[str, torch.Size]:
    stock = model_class(config)
    with torch.device("meta"), one_line(f"{stock.__name__}: cannot be built from its config"):
        return _shapes(stock(copy.deepcopy(config)))


def _forget_class(config: PreTrainedConfig) -> None:
    """Remove lop's modelling file, which is no longer needed, from a config's `auto_map`."""
    others = {k: v for k, v in (getattr(config, "auto_map", None) or {}).items() if not is_ours(v)}
    if others:
        config.auto_map = others
    elif hasattr(config, "auto_map"):
        del config.auto_map


def _shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def read_config(path: str | Path) -> PreTrainedConfig:
    """The config of a checkpoint.

    Raises LopError if there is no config, transformers does not know it, or the model is quantized
    in a format that lop does not read.
    """
    _check_exists(path)
    with one_line(f"{path}: cannot read a model config"):
        config = AutoConfig.from_pretrained(path)
        if understood(dict(getattr(config, "quantization_config", None) or {})):
            del config.quantization_config  # the weights are read dequantized
        for part in (config, config.get_text_config()):
            if method := quantization(part):
                raise LopError(f"{path}: is quantized ({method}); expected the unquantized model")
        if not isinstance(getattr(config, "auto_map", None) or {}, dict):
            raise LopError(f"{path}: auto_map is not an object of class names")
        return config


def quantization(config: PreTrainedConfig) -> str | None:
    """The quantization method in a config, or None."""
    how = dict(getattr(config, "quantization_config", None) or {})
    # old configs of bitsandbytes have no name
    return str(how.get("quant_method") or "bitsandbytes") if how else None


def model_class(config: PreTrainedConfig) -> Any:
    """The model class of a config: transformers' own, or its pruned variant."""
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
    """Raise LopError for an unknown name at once; transformers would retry for half a minute."""
    if is_offline_mode():
        raise LopError(f"{name}: no such directory, and the hub is switched off (HF_HUB_OFFLINE)")
    try:
        HfApi().model_info(name, timeout=10)
    except Exception as error:  # transport errors have no common base class across client versions
        reason = first_line(error)
        raise LopError(f"{name}: no such directory, and not on the hub: {reason}") from error
