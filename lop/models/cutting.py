"""Cuts a checkpoint file by file, one tensor at a time, without loading the model."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.hub import CHAT_TEMPLATE_DIR

from lop.errors import LopError
from lop.files import read_json
from lop.models import modeling_lop
from lop.models.checkpoint import record_sizes
from lop.models.modeling_lop import (
    ALLOW,
    HEADS,
    KEYS,
    KV_HEADS,
    WIDTH,
    is_ours,
    is_pruned,
    layer_sizes,
    pruned_class,
    resize,
)
from lop.models.quantized import (
    SUFFIXES,
    bits_by_name,
    fits,
    others_of,
    pack,
    quantization_config,
)  # fmt: skip
from lop.models.site import Site, join, lost_output
from lop.models.space import describe
from lop.models.stored import Stored
from lop.models.weights import DTYPES, Entry, mapped, read_header
from lop.plan import Bits
from lop.progress import progress

CHUNK = 32 * 2**20  # values copied at a time, of an unchanged tensor
# Files other than weights and config are copied from the source, except these.
LEFT = {"config.json", "README.md", "pruning.json", "elastic.json", "recovery.json"}
WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf",
    ".index.json",
)  # fmt: skip

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class _New:
    """A tensor of the smaller checkpoint that differs from the source's, and how it is made."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]


@dataclass(frozen=True)
class CutFile:
    """A file of a smaller checkpoint: its name in the folder, its size in bytes, and a function
    that makes the bytes piece by piece when it is called."""

    name: str
    size: int
    pieces: Callable[[], Iterable[bytes | memoryview]]


def text_file(name: str, text: str) -> CutFile:
    """A file with this text."""
    content = text.encode()
    return CutFile(name, len(content), lambda: [content])


def write_files(files: Sequence[CutFile], out: Path) -> None:
    """Write files to the directory `out`."""
    for file in progress(files, "pruning", len(files), "file"):
        (out / file.name).parent.mkdir(parents=True, exist_ok=True)
        with (out / file.name).open("wb") as stream:
            for piece in file.pieces():
                stream.write(piece)


def cut(
    source: Stored,
    kept: Sequence[Tensor],
    means: Sequence[Tensor] | None = None,
    stored: Sequence[int] | None = None,
    scope: str = "ffn",
    bits: Bits | None = None,
) -> tuple[PreTrainedModel, list[CutFile]]:
    """The checkpoint of `source` with only these units, (k_i,) for each site: its model, on the
    meta device, and its files.

    Units keep the given order; all units in another order compute the same. A site without units
    is removed. With `means`, one value for each column of a site's output map, the output maps get
    a bias that restores the lost units' mean output, added to an existing bias. With `stored`, each
    site is padded with zeros to that many units: the result is an ordinary checkpoint that loads
    wherever the dense one does. The remaining weights are quantized to `bits`.

    Raises LopError if a value is not finite, no ordinary checkpoint can have `stored` units, or the
    source is quantized.
    """
    if source.quantized:
        raise LopError(f"{source.path}: is quantized; expected the unquantized model")
    sites = source.sites(scope)
    units = [len(indices) for indices in kept]
    if units == [site.units for site in sites]:
        means = None  # nothing is lost
    units = units if stored is None else list(stored)
    small = _cut_model(source, sites, units, means is not None)
    if stored is not None:
        _check_padded(source, small)
    new: dict[str, list[_New]] = {}
    for i, site in enumerate(sites):
        mean = None if means is None else means[i]
        for key, tensor in _cut_site(source, site, kept[i], units[i], mean):
            new.setdefault(key, []).append(tensor)
    gone = _gone(source, [site for site, n in zip(sites, units, strict=True) if not n])
    widths = bits_by_name(sites, others_of(source.model, sites), bits) if bits else {}
    by_key = {source.tensors[name].key: n for name, n in widths.items()}
    files: list[CutFile] = []
    where: dict[str, str] = {}
    for file in source.files:
        name = file.relative_to(source.folder).as_posix()
        tensors = [t for t in _tensors(read_header(file), new) if t.key not in gone]
        if bits:
            tensors = [each for t in tensors for each in _quantized(t, by_key, bits.group)]
        if tensors:
            files.append(_weights(name, tensors))
            where |= dict.fromkeys([tensor.key for tensor in tensors], name)
    if source.index:
        total = sum(file.size for file in files)
        index = {"metadata": {"total_size": total}, "weight_map": where}
        files.insert(0, text_file(source.index, json.dumps(index, indent=2) + "\n"))
    how = _quantization(small, widths, bits.group) if widths and bits else {}
    beyond = any(part not in ("attention", "head") for part, _ in bits.others) if bits else False
    config = _config_files(source, small, how, beyond)
    return small, [*config, *_the_rest(source.folder, small), *files]


def _gone(source: Stored, skipped: Sequence[Site]) -> set[str]:
    """The keys of all tensors of the skipped sites, except the bias of their output map."""
    found = set()
    for site in skipped:
        bias = f"{site.name}.{site.output}.bias"
        names = [name for name in source.tensors if name.startswith(f"{site.name}.")]
        found |= {source.tensors[name].key for name in names if name != bias}
    return found


def _the_rest(folder: Path, small: PreTrainedModel) -> Iterator[CutFile]:
    """Copies of the source's other files.

    Python files are included, without running them, if the model keeps its stock class: `auto_map`
    in the config may name them.
    """
    left = LEFT | {Path(modeling_lop.__file__).name}
    weights = (*WEIGHTS, ".py") if is_pruned(small.config.get_text_config()) else WEIGHTS
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in left and not path.name.endswith(weights):
            yield _copied(path, path.name)
    for path in sorted((folder / CHAT_TEMPLATE_DIR).rglob("*")):
        if path.is_file():
            yield _copied(path, path.relative_to(folder).as_posix())


def _copied(path: Path, name: str) -> CutFile:
    return CutFile(name, path.stat().st_size, lambda: [path.read_bytes()])


def _cut_model(
    source: Stored, sites: Sequence[Site], units: Sequence[int], compensated: bool
) -> PreTrainedModel:
    """The smaller model, on the meta device."""
    small = copy.deepcopy(source.model)
    for kind in KEYS:
        of = {site: n for site, n in zip(sites, units, strict=True) if site.kind == kind}
        if of:
            layers = {site.layer: n for site, n in of.items()}
            resize(small, kind, describe(list(of), compensated), layers)
    record_sizes(small)
    return small


def _check_padded(source: Stored, small: PreTrainedModel) -> None:
    """Raise LopError unless the stock class can represent the smaller model."""
    if not is_pruned(text := small.config.get_text_config()):
        return
    if any(place["output_bias"] for place, _ in layer_sizes(text).values()):
        raise LopError(
            f"{source.path}: the padded format has no room for the compensation's bias, because "
            "this architecture has no bias there: cut the dense model without compensation"
        )
    raise LopError(
        f"{source.path}: this architecture has no padded format, because its config's "
        f"{WIDTH} does not change only the FFNs' width: use format per_layer"
    )


def _cut_site(
    source: Stored, site: Site, kept: Tensor, units: int, mean: Tensor | None
) -> Iterator[tuple[str, _New]]:
    """The changed tensors of a site, each with the key of the source's tensor that it replaces or
    follows. The site gets `units` units; those beyond `kept` are zeros."""
    for name in site.parts:
        entry = source.tensors[f"{site.name}.{name}"]
        make = partial(_part, entry, site, name, kept, units)
        yield entry.key, _New(entry.key, entry.dtype, site.shape(name, units), make)
    if mean is not None:
        out = source.tensors[f"{site.name}.{site.output}.weight"]
        bias = source.tensors.get(f"{site.name}.{site.output}.bias")
        key = bias.key if bias else out.key.removesuffix("weight") + "bias"
        make = partial(_bias, out, bias, site.columns(kept), mean)
        yield (bias or out).key, _New(key, (bias or out).dtype, out.shape[:1], make)


def _part(entry: Entry, site: Site, name: str, kept: Tensor, units: int) -> Tensor:
    """A tensor with only the kept units, padded with zeros to `units` units."""
    tensor, found = _finite(entry.read(), entry), []
    for part in site.parts[name]:
        at = part.entries(kept)
        of = _columns(tensor, at) if part.dim else tensor.index_select(0, at)
        more = [0, (units - len(kept)) * part.block]
        padding = more if part.dim else [0, 0] * (tensor.ndim - 1) + more
        found.append(torch.nn.functional.pad(of, padding) if more[1] else of)
    return join([*found, site.shared(name, tensor)], site.parts[name][0].dim)


def _columns(weight: Tensor, kept: Tensor) -> Tensor:
    # numpy is four times as fast as torch here; it has no bfloat16, so pass the bits as integers
    bits = weight.view(BITS[weight.dtype.itemsize]).numpy()
    if (kept[1:] <= kept[:-1]).any():  # in another order
        return torch.from_numpy(np.take(bits, kept.numpy(), axis=1)).view(weight.dtype)
    stays = np.zeros(weight.shape[1], dtype=bool)
    stays[kept] = True
    return torch.from_numpy(np.compress(stays, bits, axis=1)).view(weight.dtype)


def _bias(down: Entry, bias: Entry | None, kept: Tensor, mean: Tensor) -> Tensor:
    lost = lost_output(down.read(), kept, mean)
    total = lost if bias is None else lost + _finite(bias.read(), bias).float()
    return total.to(DTYPES[(bias or down).dtype])


def _tensors(entries: list[Entry], new: dict[str, list[_New]]) -> Iterator[Entry | _New]:
    """A file's tensors, with changed ones replaced and new ones added."""
    for entry in entries:
        yield from new.get(entry.key, [entry])


def _quantized(tensor: Entry | _New, bits: Mapping[str, int], group: int) -> Iterator[Entry | _New]:
    """The stored tensors of one tensor: quantized if `bits` has its key and its shape fits."""
    if tensor.key not in bits or not fits(tensor.shape, group):
        yield tensor
        return
    n, (rows, columns) = bits[tensor.key], tensor.shape
    shapes = {"_packed": (rows, columns * n // 32), "_scale": (rows, columns // group)}
    dtypes = {"_packed": "I32", "_scale": tensor.dtype, "_shape": "I64"}

    def make(end: str) -> Tensor:
        weight = tensor.make() if isinstance(tensor, _New) else _finite(tensor.read(), tensor)
        return pack(weight, n, group)[end]

    for end in SUFFIXES:
        shape = shapes.get(end, (2,))
        yield _New(f"{tensor.key}{end}", dtypes[end], shape, partial(make, end))


def _quantization(small: PreTrainedModel, bits: Mapping[str, int], group: int) -> dict[str, Any]:
    """The config's `quantization_config` for these bits by weight name."""
    weights = {
        name: module.weight
        for name, module in small.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding)
    }
    small_enough = {
        name: bits[key]
        for name, weight in weights.items()
        if (key := f"{name}.weight") in bits and fits(weight.shape, group)
    }
    return quantization_config(small_enough, sorted(weights.keys() - small_enough.keys()), group)


def _weights(name: str, tensors: list[Entry | _New]) -> CutFile:
    """A safetensors file: the length of its header, the header, and the tensors' bytes."""
    header, end = {}, 0
    for tensor in tensors:
        begin, end = end, end + math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize
        header[tensor.key] = {
            "dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end],
        }  # fmt: skip
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight bytes

    def pieces() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little") + text
        for tensor in tensors:
            if isinstance(tensor, _New):
                yield _bytes(tensor.make())
            else:
                yield from _copy(tensor)

    return CutFile(name, 8 + len(text) + end, pieces)


def _copy(entry: Entry) -> Iterator[memoryview]:
    """The bytes of an unchanged tensor, piece by piece."""
    dtype = DTYPES[entry.dtype]
    for first in range(0, math.prod(entry.shape), CHUNK):
        count = min(CHUNK, math.prod(entry.shape) - first)
        at = entry.start + first * dtype.itemsize
        raw = mapped(entry.file, at, count * dtype.itemsize)
        _finite(torch.from_numpy(raw).view(dtype), entry)
        yield raw.data


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().view(torch.uint8).numpy().data


def _finite(tensor: Tensor, entry: Entry) -> Tensor:
    if tensor.is_floating_point() and tensor.numel():
        # one pass and no copy; a nan makes both results nan
        low, high = torch.aminmax(tensor)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise LopError(f"{entry.file}: {entry.key} has values that are not finite")
    return tensor


def _config_files(
    source: Stored, small: PreTrainedModel, quantization: Mapping[str, Any], beyond: bool
) -> Iterator[CutFile]:
    """The source's config.json with the values that pruning changes, and the modelling file if the
    stock class cannot load the model. With weights quantized `beyond` the decoder's linear maps, it
    can only if all have one number of bits.

    Other values stay unchanged: this version of transformers would write other keys, which older
    versions and other loaders do not read.
    """
    config: dict[str, Any] = read_json(source.folder / "config.json")
    before, after = source.config.get_text_config(), small.config.get_text_config()
    path, values = _path_to(small.config, after), config
    for name in path:
        # older checkpoints have the text config's values at the top level
        if name not in values and is_pruned(after):
            values[name] = before.to_diff_dict()
        values = values.get(name, values)
    named = {after.attribute_map.get(name, name): name for name in (WIDTH, HEADS, KV_HEADS)}
    was, becomes = before.to_dict(), after.to_dict()
    for key in (*named, "per_layer_config", ALLOW, *KEYS.values()):
        if key not in becomes:
            values.pop(key, None)
        elif becomes[key] != was.get(key):
            values[key if key in values else named.get(key, key)] = becomes[key]
    auto_map = {k: v for k, v in (config.get("auto_map") or {}).items() if not is_ours(v)}
    schemes = len(quantization.get("config_groups", ()))
    if beyond and schemes == 1:  # stock loaders dequantize all weights if they have the same bits
        quantization = {**quantization, "dequantize": True}
    if is_pruned(after) or (beyond and schemes > 1):
        cls: Any = type(small) if is_pruned(after) else pruned_class(type(small))  # type: ignore[arg-type]
        module = Path(modeling_lop.__file__)
        auto_map = {cls._auto_class: f"{module.stem}.{cls.__name__}"}
        yield _copied(module, module.name)
    if quantization:
        config["quantization_config"] = quantization
    if auto_map:
        config["auto_map"] = auto_map
    else:
        config.pop("auto_map", None)
    yield text_file("config.json", json.dumps(config, indent=2) + "\n")


def _path_to(config: PreTrainedConfig, text: PreTrainedConfig) -> list[str]:
    """The attribute names that lead from the whole config to its text config."""
    for name in config.sub_configs if config is not text else ():
        part = getattr(config, name, None)
        if part is not None and part.get_text_config() is text:
            return [name, *_path_to(part, text)]
    return []
