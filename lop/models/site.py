"""A site is a group of interchangeable units in a decoder layer; slices say which tensors it owns.

This is the only place that says which part of which tensor belongs to a unit: scores, the reward's
views, pruning in memory and cutting files all go through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

from lop.models.modeling_lop import fit_heads, nothing
from lop.plan import Kind


@dataclass(frozen=True)
class Slice:
    """Which part of a tensor a site's units have: unit u the `block` entries from offset + u·block.

    `tensor` is named by map and parameter, as `gate_proj.weight`; `dim` is the dimension.
    """

    tensor: str
    dim: int
    block: int
    offset: int = 0

    def entries(self, units: Tensor) -> Tensor:
        """Where along the dimension these units' entries stand."""
        steps = torch.arange(self.block, device=units.device)
        return (self.offset + units[:, None] * self.block + steps).flatten()


Amount = Callable[["Site", str], int]  # what a tensor of a site, `<map>.<parameter>`, has of a cost


def numel(site: Site, name: str) -> int:
    """Parameters of a tensor of a site."""
    return site.module.get_parameter(name).numel()


@dataclass(frozen=True)
class Site:
    """A group of interchangeable units in one decoder layer: linear maps into them, and one out.

    `ffn`, units are neurons: gated, down(act(gate(x)) · up(x)), or plain, down(act(up(x))); gate
    and up may be fused. `attention`, units are KV heads with their query heads, or query heads
    where there is one KV head for all; q, k and v may be fused.
    """

    name: str  # of the module
    kind: Kind
    layer: int
    units: int
    module: nn.Module
    inputs: tuple[str, ...]  # the maps into the units
    output: str  # the map out of them
    slices: tuple[Slice, ...]  # of input tensors in their order, and of the output's weight last
    heads: tuple[int, int] = (0, 0)  # query and KV heads of a unit; no KV head where all share one

    def map(self, name: str) -> nn.Linear:
        """One of its linear maps."""
        found = self.module.get_submodule(name)
        found = getattr(found, "base_layer", found)  # below an adapter of peft's
        assert isinstance(found, nn.Linear)
        return found

    @property
    def out(self) -> nn.Linear:
        """The map out of the units."""
        return self.map(self.output)

    @property
    def block(self) -> int:
        """Columns of the output map that a unit has: 1, or those of its query heads."""
        return self.slices[-1].block

    @property
    def maps(self) -> list[nn.Linear]:
        """All of its linear maps."""
        return [self.map(name) for name in (*self.inputs, self.output)]

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Inside, the weights are where they can be read, also those offloaded to CPU or disk."""
        with ExitStack() as stack:
            for linear in self.maps:
                stack.enter_context(align_module_device(linear))
            yield

    @cached_property
    def parts(self) -> dict[str, tuple[Slice, ...]]:
        """The slices of each tensor."""
        names = dict.fromkeys(each.tensor for each in self.slices)
        return {name: tuple(s for s in self.slices if s.tensor == name) for name in names}

    def tensor(self, name: str) -> Tensor:
        """A tensor of one of its maps, detached."""
        found: Tensor = self.module.get_parameter(name)
        return found.detach()

    def tensors(self) -> dict[str, Tensor]:
        """All that its units have a part in, detached, by `<map>.<parameter>`."""
        return {name: self.tensor(name) for name in self.parts}

    def shape(self, name: str, units: int) -> tuple[int, ...]:
        """The shape of a tensor of the site with so many units."""
        found, parts = list(self.tensor(name).shape), self.parts[name]
        found[parts[0].dim] += (units - self.units) * sum(part.block for part in parts)
        return tuple(found)

    def cost(self, amount: Amount = numel) -> int:
        """What goes with a unit: parameters, or of what each tensor has such an `amount`."""
        each = ((part, self.tensor(part.tensor).shape[part.dim]) for part in self.slices)
        return sum(part.block * amount(self, part.tensor) // length for part, length in each)

    def shared(self, name: str, tensor: Tensor) -> Tensor:
        """What of a tensor belongs to no unit, but to all: it stands behind what units have."""
        last = self.parts[name][-1]
        end = last.offset + self.units * last.block
        return tensor.narrow(last.dim, end, tensor.shape[last.dim] - end)

    def take(self, name: str, tensor: Tensor, units: Tensor) -> Tensor:
        """What of a tensor these units need, in their order."""
        dim = self.parts[name][0].dim
        own = [tensor.index_select(dim, part.entries(units)) for part in self.parts[name]]
        return join([*own, self.shared(name, tensor)], dim)

    def front(self, name: str, tensor: Tensor, units: int) -> Tensor:
        """What of a tensor the first units need: a view, or a copy where maps are fused."""
        if units == self.units:
            return tensor
        parts = self.parts[name]
        views = [tensor.narrow(p.dim, p.offset, units * p.block) for p in parts]
        return join([*views, self.shared(name, tensor)], parts[0].dim)

    def fit(self, units: int) -> None:
        """Have its module compute with as many units as its tensors now have."""
        if self.kind == "attention":
            fit_heads(self.module, self.heads, units)
            if not units:  # the maps of an FFN can be without neurons; a head is of no size
                self.module.forward = lambda *args, **given: nothing(
                    self.kind, self.layer, self.out.bias, *args, **given
                )

    @torch.no_grad()
    def permute(self, order: Tensor) -> None:
        """Put its units in another order, in place; what it computes stays the same."""
        order = order.to(self.out.weight.device)
        for name, tensor in self.tensors().items():
            tensor.copy_(self.take(name, tensor, order))

    def columns(self, units: Tensor) -> Tensor:
        """The columns of the output map that belong to these units."""
        return self.slices[-1].entries(units)


def join(tensors: list[Tensor], dim: int) -> Tensor:
    """Those that are not empty one behind another; what needs no copy is not copied."""
    full = [tensor for tensor in tensors if tensor.numel()] or tensors[:1]
    return full[0] if len(full) == 1 else torch.cat(full, dim)


def attributes(site: Site) -> dict[str, object]:
    """What `show_front` may change of a site's module besides its tensors."""
    return {name: value for name, value in vars(site.module).items() if name[0] != "_"}


def restore(site: Site, before: dict[str, object]) -> None:
    """Give a site's module back the attributes that it had."""
    for name in attributes(site).keys() - before.keys():
        delattr(site.module, name)
    vars(site.module).update(before)


def show_front(site: Site, full: dict[str, Tensor], units: int, own: bool = False) -> None:
    """Have a site compute with its first units only, of its `full` tensors.

    They are not copied, unless each is to have memory of its `own`, as a smaller checkpoint's has.
    """
    for name, tensor in full.items():
        owner, _, kind = name.rpartition(".")
        part = site.front(name, tensor, units)
        front = nn.Parameter(part.contiguous() if own else part, requires_grad=False)
        setattr(site.map(owner), kind, front)
    site.fit(units)


@torch.no_grad()
def keep_units(site: Site, kept: Tensor, bias: Tensor | None = None) -> None:
    """Cut a site in place down to the units with indices `kept`, shape (k,), ascending.

    `bias`, shape (hidden,), is added to the output map (FLAP's compensation).
    """
    for name, tensor in site.tensors().items():
        owner, _, kind = name.rpartition(".")
        small = site.take(name, tensor, kept).contiguous()
        setattr(site.map(owner), kind, nn.Parameter(small, requires_grad=False))
    for name in site.inputs:
        site.map(name).out_features = len(site.map(name).weight)
    out = site.out
    out.in_features = out.weight.shape[1]
    if site.kind == "attention":
        fit_heads(site.module, site.heads, len(kept))
    if bias is not None:
        there = out.bias
        bias = bias.to(out.weight) if there is None else (bias.float() + there.float()).to(there)
        out.bias = nn.Parameter(bias, requires_grad=False)


def lost_output(weight: Tensor, kept: Tensor, mean: Tensor) -> Tensor:
    """What the columns not in `kept` add to a site's output on average, float32 (hidden,).

    `weight` (hidden, c) is the output map's, `mean` (c,) the mean activation of its columns.
    """
    pruned = torch.ones(weight.shape[1], dtype=torch.bool)
    pruned[kept] = False
    return weight[:, pruned.to(weight.device)].float() @ mean[pruned].to(weight.device)
