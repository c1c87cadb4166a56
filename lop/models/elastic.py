"""A loaded model that can change its size: each site computes with the first of its units.

In an elastic checkpoint the units of each site are in order of importance, so a plan keeps the
first part of every tensor. The caller gives the plan; this module knows no predictor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lop.errors import LopError
from lop.models.checkpoint import model_class
from lop.models.modeling_lop import KEYS, forget_sizes, layer_sizes, set_layer_sizes, skip
from lop.models.site import Site, attributes, restore, show_front
from lop.models.space import describe, space_of
from lop.models.stored import Stored
from lop.plan import Plan

POINTS = 64  # sizes of a site for which the lost output is stored
MARK = "filled_by_sites_of"  # attribute of a KV cache: the plan of the model that filled it


class LostOutput:
    """The mean output of a site's units after the first k, for any k: the bias that FLAP adds.

    To sum over all lost columns, most of the output map would have to be read. So the sums are
    stored for `POINTS` sizes, and only the columns up to the next stored size are read.
    """

    def __init__(self, path: Path, means: Sequence[Tensor]) -> None:
        """Read the file that `write` wrote; `means` has each site's mean activations by column.

        Raises LopError if the file cannot be read or is for another model.
        """
        try:
            with safe_open(path, "pt") as file:
                sums = [file.get_tensor(f"sites.{i}") for i in range(len(file.keys()))]
        except (OSError, SafetensorError) as error:
            raise LopError(f"{path}: cannot read lost outputs (safetensors): {error}") from error
        if len(sums) != len(means):
            raise LopError(f"{path}: has {len(sums)} sites, the model has {len(means)}")
        self.sums, self.means = sums, means

    def of(self, site: int, weight: Tensor, units: int, kept: int) -> Tensor:
        """The mean output of all but the first `kept` of a site's `units`, float32 (hidden,).

        `weight` is the weight of the whole output map.
        """
        points = _points(units)
        at = int(torch.searchsorted(points, kept))
        block = weight.shape[1] // units
        first, last = kept * block, int(points[at]) * block
        return self.sums[site][at] + weight[:, first:last].float() @ self.means[site][first:last]

    @staticmethod
    def write(path: Path, source: Stored, sites: Sequence[Site], means: Sequence[Tensor]) -> None:
        """Write the sums of these sites of `source`: tensors `sites.<i>`, (points, hidden)."""
        found = {}
        for i, (site, mean) in enumerate(zip(sites, means, strict=True)):
            weight = source.tensors[f"{site.name}.{site.slices[-1].tensor}"].read()
            ends = (_points(site.units) * site.block).tolist()
            pieces = [weight[:, a:b].float() @ mean[a:b] for a, b in pairwise(ends)]
            sums = torch.stack([*pieces, torch.zeros(len(weight))]).double()
            found[f"sites.{i}"] = sums.flip(0).cumsum(0).flip(0).float().contiguous()
        save_file(found, path)


def _points(units: int) -> Tensor:
    """The sizes of a site for which the lost output is stored: 0, …, all units."""
    return torch.linspace(0, units, min(POINTS, units) + 1, dtype=torch.float64).round().long()


class Elastic:
    """A model whose sites compute with their first units only; `show` sets the numbers of units.

    `source` must have mapped weights. On a CPU this takes no more memory than the small model. The
    first rows of a tensor are a view of the mapped file. Output maps need the first part of every
    row: `read` copies this into memory, and a larger size uses a view of the mapped file instead.
    Mapped weights take memory when they are first used, and the system may free it again.
    """

    def __init__(self, source: Stored, scope: str, lost: LostOutput | None = None) -> None:
        self.model, self.lost = source.model, lost
        self.sites = source.sites(scope)
        self.space = space_of(self.sites)
        self.kept = self.space.units
        self._dtype = self.model.dtype
        self._full = [site.tensors() for site in self.sites]
        self._before = [attributes(site) for site in self.sites]
        self._biases = [site.out.bias for site in self.sites]
        names = [f"{site.name}.{site.slices[-1].tensor}" for site in self.sites]
        self._outputs = [source.tensors[name] for name in names]
        self._own: list[Tensor | None] = [None] * len(self.sites)
        self._sizes = layer_sizes(self.model.config.get_text_config())
        self._places = {kind: self._place(kind) for kind in dict.fromkeys(self.space.kinds)}
        decoder = self.model.get_decoder()
        decoder.register_forward_pre_hook(self._check_cache, with_kwargs=True)
        decoder.register_forward_hook(self._mark_cache, with_kwargs=True)

    def read(self, plan: Plan) -> None:
        """Copy the columns of the output maps that a plan keeps into memory."""
        for i, (site, kept) in enumerate(zip(self.sites, plan.kept, strict=True)):
            if kept < site.units:
                self._own[i] = self._outputs[i].front(kept * site.block)

    @torch.no_grad()
    def show(self, plan: Plan) -> None:
        """Make every site compute with as many units as the plan keeps.

        No weight is copied, except for fused maps and on a GPU. A site that keeps no units is
        skipped. Raises LopError for another model's plan, and if the model's dtype was changed.
        """
        if not plan.space.fits(self.space):
            raise LopError(f"plan for units {plan.space.units}, the model has {self.space.units}")
        if self.model.dtype != self._dtype:
            raise LopError(
                f"the model was converted to {self.model.dtype}, its files have {self._dtype}: "
                "load it again to resize it"
            )
        device, pruned = self.model.device, plan.kept != self.space.units
        for i, kept in enumerate(plan.kept):
            self._show(i, kept, pruned)
            if device.type != "cpu":
                self.model.get_submodule(self.sites[i].name).to(device)
        self.kept = plan.kept
        self._record(pruned)

    def _show(self, i: int, kept: int, pruned: bool) -> None:
        site, full = self.sites[i], dict(self._full[i])
        parent, _, name = site.name.rpartition(".")
        setattr(self.model.get_submodule(parent), name, site.module)
        restore(site, self._before[i])
        output = site.slices[-1].tensor
        weight = full.pop(output)
        show_front(site, full, kept)
        own, columns = self._own[i], kept * site.block
        front = weight if own is None or own.shape[1] < columns else own
        site.out.weight = nn.Parameter(front[:, :columns], requires_grad=False)
        site.out.bias = bias = self._biases[i]
        if self.lost and pruned:
            lost = self.lost.of(i, weight, site.units, kept)
            total = lost.to(weight) if bias is None else (lost + bias.float().cpu()).to(bias)
            site.out.bias = nn.Parameter(total, requires_grad=False)
        for linear in site.maps:
            linear.out_features, linear.in_features = linear.weight.shape
        if not kept:
            skip(self.model, site.kind, site.name, site.output)

    def _place(self, kind: str) -> dict[str, Any]:
        """The location of a kind of site, in the form of a pruned model's config."""
        sites = [site for site in self.sites if site.kind == kind]
        added = kind in self._sizes and self._sizes[kind][0]["output_bias"]
        place = describe(sites, output_bias=added)
        layers = sorted(self._units(kind))
        if len(layers) < self.model.config.get_text_config().num_hidden_layers:
            place["layers"] = layers
        return place

    def _units(self, kind: str) -> dict[int, int]:
        """The present units of a kind of site, by layer; 0 for layers that the source skips."""
        before = self._sizes[kind][1] if kind in self._sizes else {}
        now = {
            site.layer: kept
            for site, kept in zip(self.sites, self.kept, strict=True)
            if site.kind == kind
        }
        return dict(sorted((before | now).items()))

    def _record(self, pruned: bool) -> None:
        """Set the model's config and class to the present sizes, as in a pruned checkpoint."""
        sizes = dict(self._sizes)
        for kind, place in self._places.items():
            bare = any(
                bias is None
                for site, bias in zip(self.sites, self._biases, strict=True)
                if site.kind == kind
            )
            added = place["output_bias"] or bool(self.lost and pruned and bare)
            sizes[kind] = place | {"output_bias": added}, self._units(kind)
        text = self.model.config.get_text_config()
        forget_sizes(text)
        set_layer_sizes(text, {kind: sizes[kind] for kind in KEYS if kind in sizes})
        self.model.__class__ = model_class(self.model.config)

    def _check_cache(self, module: nn.Module, args: Any, given: dict[str, Any]) -> None:
        """Raise LopError for a KV cache that was filled at another size of the model."""
        cache = _cache(given)
        if cache is not None and cache.get_seq_length() and getattr(cache, MARK, None) != self.kept:
            raise LopError(
                "this KV cache was filled at another size of the model, or by another model; after "
                "lop.resize begin with a new cache"
            )

    def _mark_cache(self, module: nn.Module, args: Any, given: dict[str, Any], out: Any) -> None:
        for cache in (_cache(given), _cache(getattr(out, "__dict__", {}))):
            if cache is not None:
                setattr(cache, MARK, self.kept)


def _cache(given: Mapping[str, Any]) -> Any:
    """The KV cache among arguments or results; newer versions of transformers call it `cache`."""
    return given.get("cache", given.get("past_key_values"))
