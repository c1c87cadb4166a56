"""Finds the prunable sites of a model: feed-forward networks and attention of its decoder.

They are found by structure and shapes, not by a list of architectures. Importance, reward and
pruning all use the sites of `find_sites`, so support for a model family depends on this module
alone.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from lop.errors import LopError
from lop.models.matching import attention_of, ffn_of, skipped
from lop.models.site import Site
from lop.plan import FLOORS, SCOPES, Kind, Space


def find_sites(model: PreTrainedModel, scope: str = "ffn") -> list[Site]:
    """The decoder's sites in layer order, without vision tower and projector.

    Attention that cannot be pruned is left out, with one warning. Raises LopError with the layer
    and its content unless each layer has exactly one FFN of ordinary linear maps: mixtures of
    experts, quantized and shared weights are not supported.
    """
    if scope not in SCOPES:
        raise LopError(f"scope {scope!r}: expected one of {', '.join(SCOPES)}")
    if method := getattr(model, "quantization_method", None):
        raise LopError(f"{type(model).__name__}: is quantized ({method}): prune it unquantized")
    prefix, layers = _layers(model)
    attention = _attention(prefix, layers) if "attention" in SCOPES[scope] else {}
    sites: list[Site] = []
    for i, layer in enumerate(layers):
        ffn = ffn_of(f"{prefix}.{i}", i, layer)
        sites += [site for site in (attention.get(i), ffn) if site]
    owners: dict[int, str] = {}
    for site in sites:
        if (owner := owners.setdefault(id(site.out.weight), site.name)) != site.name:
            raise LopError(f"{site.name}: shares its weights with {owner}; expected separate ones")
    return sites


def _attention(prefix: str, layers: nn.ModuleList) -> dict[int, Site]:
    """The prunable attention, by layer."""

    def found(alone: bool) -> dict[int, Site | str | None]:
        each = enumerate(layers)
        return {i: attention_of(f"{prefix}.{i}", i, layer, alone) for i, layer in each}

    sites = found(alone=False)
    known = [site for site in sites.values() if isinstance(site, Site)]
    if known and all(site.units == 1 for site in known):  # a single KV head in every layer
        sites = found(alone=True)
    if reasons := [site for site in sites.values() if isinstance(site, str)]:
        line = f"attention stays whole in {len(reasons)} layers: {reasons[0]}"
        warnings.warn(line, stacklevel=3)
    return {i: site for i, site in sites.items() if isinstance(site, Site)}


def find_space(
    model: PreTrainedModel,
    scope: str = "ffn",
    floors: Mapping[Kind, float] = FLOORS,
    multiple_of: int = 1,
) -> Space:
    """The space of a model: its sites with their units and costs.

    `floors` are the smallest shares of a site's units that are kept; with 0 a site may be skipped.
    FFNs keep multiples of `multiple_of` neurons. Raises LopError as `find_sites` does.
    """
    return space_of(find_sites(model, scope), floors, multiple_of)


def space_of(
    sites: Sequence[Site], floors: Mapping[Kind, float] = FLOORS, multiple_of: int = 1
) -> Space:
    """The space of the sites of `find_sites`, which do not include skipped sites."""
    parts = [(site.units, site.cost(), site.kind, site.layer) for site in sites]
    units, costs, kinds, layers = zip(*parts, strict=True)
    found = Space.of(units, costs, kinds, layers, floors, multiple_of)
    least = [_least(site, i, kinds) for i, site in enumerate(sites)]
    return replace(found, floors=tuple(map(max, found.floors, least)))


def _least(site: Site, number: int, kinds: Sequence[Kind]) -> int:
    """The number of units that a site must keep even with a floor of 0: 0 or 1.

    It is 1 if the site's module is the whole layer (OPT), which cannot be skipped, and for a kind's
    first site, because transformers reads the cache and sizes of a model from some layer.
    """
    is_layer = site.name.rpartition(".")[2] == str(site.layer)
    return int(is_layer or kinds.index(site.kind) == number)


def find_ffns(model: PreTrainedModel) -> list[Site]:
    """The decoder's FFNs in layer order; see `find_sites`."""
    return find_sites(model, "ffn")


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The language decoder's layers. Raises LopError if there are none."""
    return _layers(model)[1]


def skipped_layers(model: PreTrainedModel, kind: Kind) -> list[int]:
    """The layers whose site of this kind was skipped."""
    return [i for i, layer in enumerate(decoder_layers(model)) if skipped(layer, kind)]


def linear_weights(model: PreTrainedModel) -> int:
    """The number of weights of the language model's linear maps and output embeddings."""
    maps = [m for m in model.get_decoder().modules() if isinstance(m, nn.Linear)]
    return sum(m.weight.numel() for m in [*maps, model.get_output_embeddings()])


def check_in_memory(sites: Sequence[Site]) -> None:
    """Raise LopError if weights are offloaded, because they cannot be changed in place."""
    for site in sites:
        if site.out.weight.is_meta:
            raise LopError(
                f"{site.name}: is offloaded by its device map; expected the decoder in memory "
                "(`lop prune` cuts files, and needs no memory for the model)"
            )


def describe(sites: Sequence[Site], output_bias: bool) -> dict[str, Any]:
    """The location of the linear maps of one kind of site, for `lop.models.modeling_lop.resize`.

    Raises LopError if the sites differ in structure.
    """
    first = sites[0]
    path = re.sub(rf"\.{first.layer}(?=\.|$)", ".{}", first.name, count=1)
    for site in sites:
        if site.name != path.format(site.layer) or _shape(site) != _shape(first):
            raise LopError(f"{site.name}: has another structure than {first.name}")
    place = {"module": path, "inputs": list(first.inputs), "output": first.output}
    if first.kind == "ffn":
        fused = len(first.parts[f"{first.inputs[0]}.weight"]) == 2
        return place | {"fused": fused, "output_bias": output_bias}
    rows = {}
    for name in first.inputs:
        of_one = sum(part.block for part in first.parts.get(f"{name}.weight", ()))
        rows[name] = [len(first.map(name).weight) - of_one * first.units, of_one]
    heads = {"rows": rows, "columns": first.block, "heads": list(first.heads)}
    return place | heads | {"output_bias": output_bias}


def _shape(site: Site) -> tuple[Any, ...]:
    """A site's structure without its number of units; sites built alike have the same."""
    blocks = [(each.tensor, each.dim, each.block) for each in site.slices]
    return site.inputs, site.output, blocks, site.heads


def _layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The name of the decoder's layers in the model, and the layers.

    A vision tower may have as many layers: the decoder's are the nearest to the input embeddings.
    """
    count = model.config.get_text_config().num_hidden_layers
    decoder, names = model.get_decoder(), {m: name for name, m in model.named_modules()}
    beside = names.get(model.get_input_embeddings(), "").split(".")

    def nearness(name: str) -> tuple[int, int]:
        parts = name.split(".")
        same = [a == b for a, b in zip(parts, beside, strict=False)]
        return [*same, False].index(False), -len(parts)

    found = {
        names[module]: module
        for module in decoder.modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    }
    if not found:
        kind = type(model).__name__
        raise LopError(f"{kind}: no {count} decoder layers found in its language model")
    name = max(found, key=nearness)
    return name, found[name]
