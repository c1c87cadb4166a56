"""Finds a decoder layer's feed-forward network and attention by structure and shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lop.errors import LopError
from lop.models.modeling_lop import Skipped
from lop.models.site import Site, Slice

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
FUSED = "qkv_proj"  # the only fused map whose row order is known: all of q, then k, then v


def ffn_of(prefix: str, number: int, layer: nn.Module) -> Site | None:
    """The FFN of the layer named `prefix`; None if it was skipped.

    Raises LopError unless there is exactly one.
    """
    if skipped(layer, "ffn"):
        return None
    if any(parameter.ndim > 2 for parameter in layer.parameters()):
        raise LopError(f"{prefix}: is a mixture of experts, which lop does not prune")
    found = [
        site
        for name, module in layer.named_modules()
        if "attention" not in type(module).__name__.lower()
        and (site := _match_ffn(f"{prefix}.{name}".rstrip("."), number, module))
    ]
    if len(found) == 1:
        site = found[0]
        for name in (*site.inputs, site.output):
            if flaw := _flaw(site.module.get_submodule(name)):
                raise LopError(f"{site.name}.{name}: {flaw}")
        _check_plain(site, site.module is layer)
        return site
    if found:
        names = ", ".join(site.name.removeprefix(prefix + ".") for site in found[:4])
        raise LopError(f"{prefix}: {len(found)} feed-forward networks ({names} …), expected one")
    kinds = sorted({type(m).__name__ for m in layer.modules()} - {type(layer).__name__})
    raise LopError(
        f"{prefix}: no feed-forward network of linear maps (gate, up, down; gate_up, down; "
        f"or fc1, fc2); found {', '.join(kinds)}"
    )


def skipped(layer: nn.Module, kind: str) -> bool:
    """Whether a layer has no FFN or attention (`kind`), because pruning skipped it."""
    return any(isinstance(m, Skipped) and m.kind == kind for m in layer.modules())


def _match_ffn(name: str, number: int, module: nn.Module) -> Site | None:
    """The FFN that consists of a module's direct linear maps, if they have its shapes."""
    linears = _linears(module)
    if len(linears) not in (2, 3):
        return None
    # the last map that fits: if all maps are square, the output map is the one defined last
    for output in reversed(linears):
        down = linears[output]
        inputs = {n: m for n, m in linears.items() if n != output}
        hidden, width = down.out_features, down.in_features
        shapes = {(m.in_features, m.out_features) for m in inputs.values()}
        fused = len(inputs) == 1 and shapes == {(hidden, 2 * width)}
        if shapes == {(hidden, width)} or fused:
            slices = [
                Slice(f"{n}.{kind}", 0, 1, offset)
                for n, linear in inputs.items()
                for kind in _parameters(linear)
                for offset in ((0, width) if fused else (0,))
            ]
            slices.append(Slice(f"{output}.weight", 1, 1))
            return Site(name, "ffn", number, width, module, tuple(inputs), output, tuple(slices))
    return None


def attention_of(
    prefix: str, number: int, layer: nn.Module, alone: bool = False
) -> Site | str | None:
    """The self-attention of the layer named `prefix`, or as text the reason why it cannot be cut.

    Its units are KV heads with their query heads. With `alone` they are single query heads, for
    models with one KV head for all query heads. None if the attention was skipped.
    """
    if skipped(layer, "attention"):
        return None
    named = {
        name: module
        for name, module in layer.named_modules()
        if name and "attention" in type(module).__name__.lower() and _linears(module)
    }
    if len(named) != 1:
        return f"{prefix}: {len(named)} attention modules of linear maps, expected one"
    ((name, module),) = named.items()
    name = f"{prefix}.{name}"
    found = _match_attention(name, number, module, alone)
    if isinstance(found, str):
        return f"{name} ({type(module).__name__}): {found}"
    return found


def _match_attention(name: str, number: int, module: nn.Module, alone: bool) -> Site | str:
    """The attention that consists of a module's direct linear maps, or the reason why not."""
    linears, size = _linears(module), getattr(module, "head_dim", None)
    if "cross" in type(module).__name__.lower():
        return "is cross-attention"
    if not isinstance(size, int) or not (set(linears) > {FUSED} or len(linears) == 4):
        return f"expected maps of q, k, v and the output, or {FUSED} and the output"
    if flaw := next(filter(None, map(_flaw, linears.values())), None):
        return flaw
    for output in reversed(linears):
        inputs = {n: m for n, m in linears.items() if n != output}
        if output != FUSED and (heads := _heads(linears[output], inputs, size)):
            query, shared = heads
            flaw = _beside(module, linears, size, heads)
            a_unit = (1, 0) if alone else (query // shared, 1)
            slices = _attention_slices(inputs, output, linears[output], size, a_unit)
            units = query // a_unit[0]
            return flaw or Site(
                name, "attention", number, units, module, tuple(inputs), output, slices, a_unit
            )
    return "its maps do not have the shapes of query, key and value heads"


def _heads(out: nn.Linear, inputs: dict[str, Any], size: int) -> tuple[int, int] | None:
    """The numbers of query and KV heads of `size`, or None if the maps' shapes do not fit."""
    if any(linear.in_features != out.out_features for linear in inputs.values()):
        return None
    rows = sorted(linear.out_features for linear in inputs.values())
    if FUSED in inputs:
        key = (rows[0] - out.in_features) // 2
        rows = [key, rows[0] - out.in_features - key, out.in_features]
    key, value, query = rows
    fits = key == value and query == out.in_features and key > 0 and not query % key
    return (query // size, key // size) if fits and not key % size else None


def _attention_slices(
    inputs: dict[str, Any], output: str, out: nn.Linear, size: int, a_unit: tuple[int, int]
) -> tuple[Slice, ...]:
    """The slices of the query heads, and of their KV heads if each unit has one."""
    group, query = a_unit[0] * size, out.in_features
    first = next(iter(inputs))  # with one head all maps have the same shape: the first is q
    shared = query // group * size  # rows of keys, and of values
    slices = []
    for name, linear in inputs.items():
        for kind in _parameters(linear):
            tensor = f"{name}.{kind}"
            is_query = linear.out_features == query and (bool(a_unit[1]) or name == first)
            if name == FUSED or is_query:
                slices.append(Slice(tensor, 0, group))
            if name == FUSED and a_unit[1]:
                slices += [Slice(tensor, 0, size, begin) for begin in (query, query + shared)]
            elif not is_query and a_unit[1]:
                slices.append(Slice(tensor, 0, size))
    return (*slices, Slice(f"{output}.weight", 1, group))


def _beside(
    module: nn.Module, linears: dict[str, Any], size: int, heads: tuple[int, int]
) -> str | None:
    """The reason why heads cannot be separated: other parameters than a norm of each head, or other
    head counts than the shapes give. None if there is no reason."""
    maps = tuple(f"{name}." for name in linears)
    for name, tensor in module.named_parameters():
        norm = "norm" in type(module.get_submodule(name.rpartition(".")[0])).__name__.lower()
        if not name.startswith(maps) and not (norm and tuple(tensor.shape) == (size,)):
            return f"{name} is a parameter of {tuple(tensor.shape)} outside its linear maps"
    groups = getattr(module, "num_key_value_groups", None)
    if groups is not None and groups != heads[0] // heads[1]:
        return f"has {groups} query heads per KV head, but {heads[0] // heads[1]} by its shapes"
    return None


def _linears(module: nn.Module) -> dict[str, Any]:
    """A module's direct linear maps, in the order of their definition.

    Substitutes of nn.Linear are included, or a gated FFN could be mistaken for a plain one.
    """
    return {
        name: child
        for name, child in module.named_children()
        if "linear" in type(child).__name__.lower() or hasattr(child, "in_features")
    }


def _parameters(linear: Any) -> list[str]:
    return [kind for kind, _ in linear.named_parameters()] or ["weight"]


def _flaw(linear: Any) -> str | None:
    """The reason why a linear map cannot be cut, or None."""
    kind = type(linear)
    if kind is nn.Linear and linear.weight.dtype in FLOATS:
        return None
    dtype = getattr(linear.weight, "dtype", "its own kind")
    return (
        f"is a {kind.__name__} of {dtype}; expected an nn.Linear of float32, float16 or bfloat16 "
        "(is the model quantized?)"
    )


def _check_plain(site: Site, whole: bool) -> None:
    """Raise LopError if neurons depend on each other, or have parameters outside the linear maps.

    A norm over the neurons does both: it changes when neurons are removed. `whole` means that the
    module is the whole layer, whose other tensors have the hidden size.
    """
    fused = any(each.offset for each in site.slices)
    sizes = {site.units, 2 * site.units} if fused else {site.units}
    if whole:
        sizes.discard(site.out.out_features)
    maps = tuple(f"{name}." for name in (*site.inputs, site.output))
    for name, tensor in (*site.module.named_parameters(), *site.module.named_buffers()):
        if not name.startswith(maps) and sizes & set(tensor.shape):
            raise LopError(
                f"{site.name}.{name}: is a parameter of the FFN's {site.units} neurons; expected "
                "such parameters only in linear maps"
            )
