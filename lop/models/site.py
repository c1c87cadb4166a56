"""A site is a group of interchangeable units in a decoder layer; slices are their tensor parts.

Only this module knows which part of which tensor belongs to a unit: scores, the reward's views,
pruning in memory and cutting files all use it.
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
    """The part of a tensor that belongs to a site's units.

    Unit u has the `block` entries from offset + u·block along dimension `dim`. `tensor` is the name
    of map and parameter, such as `gate_proj.weight`.
    """

    tensor: str
    dim: int
    block: int
    offset: int = 0

    def entries(self, units: Tensor) -> Tensor:
        """The indices of these units' entries along the dimension."""
        steps = torch.arange(self.block, device=units.device)
        return (self.offset + units[:, None] * self.block + steps).flatten()


Amount = Callable[["Site", str], int]  # the cost of a tensor, `<map>.<parameter>`, of a site


def numel(site: Site, name: str) -> int:
    """The number of parameters of a site's tensor."""
    return site.module.get_parameter(name).numel()


@dataclass(frozen=True)
class Site:
    """Interchangeable units in one decoder layer, with their input linear maps and one output map.

    Kind `ffn`: units are neurons of a gated FFN, down(act(gate(x)) · up(x)), or a plain one,
    down(act(up(x))); gate and up may be fused. Kind `attention`: units are KV heads with their
    query heads, or query heads if all share one KV head; q, k and v may be fused.
    """

    name: str  # of the module
    kind: Kind
    layer: int
    units: int
    module: nn.Module
    inputs: tuple[str, ...]  # names of the input maps
    output: str  # name of the output map
    slices: tuple[Slice, ...]  # of the input maps' tensors in order, last the output map's weight
    heads: tuple[int, int] = (0, 0)  # query and KV heads of a unit; 0 KV heads if all share one

    def map(self, name: str) -> nn.Linear:
        """The linear map with this name."""
        found = self.module.get_submodule(name)
        found = getattr(found, "base_layer", found)  # inside a PEFT adapter
        assert isinstance(found, nn.Linear)
        return found

    @property
    def out(self) -> nn.Linear:
        """The output map."""
        return self.map(self.output)

    @property
    def block(self) -> int:
        """Columns of the output map for each unit: 1 for a neuron, or those of its query heads."""
        return self.slices[-1].block

    @property
    def maps(self) -> list[nn.Linear]:
        """All linear maps, the output map last."""
        return [self.map(name) for name in (*self.inputs, self.output)]

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Load weights that are offloaded to CPU or disk, so that the block can read them."""
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
        """A tensor of a linear map, detached."""
        found: Tensor = self.module.get_parameter(name)
        return found.detach()

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that contain parts of the units, detached, by `<map>.<parameter>`."""
        return {name: self.tensor(name) for name in self.parts}

    def shape(self, name: str, units: int) -> tuple[int, ...]:
        """The shape that a tensor of the site has with `units` units."""
        found, parts = list(self.tensor(name).shape), self.parts[name]
        found[parts[0].dim] += (units - self.units) * sum(part.block for part in parts)
        return tuple(found)

    def cost(self, amount: Amount = numel) -> int:
        """The cost of one unit: its parameters, or its share of each tensor's `amount`."""
        each = ((part, self.tensor(part.tensor).shape[part.dim]) for part in self.slices)
        return sum(part.block * amount(self, part.tensor) // length for part, length in each)

    def shared(self, name: str, tensor: Tensor) -> Tensor:
        """The part of a tensor that all units share: the entries after those of the units."""
        last = self.parts[name][-1]
        end = last.offset + self.units * last.block
        return tensor.narrow(last.dim, end, tensor.shape[last.dim] - end)

    def take(self, name: str, tensor: Tensor, units: Tensor) -> Tensor:
        """The part of a tensor that these units need, in their order, with the shared part."""
        dim = self.parts[name][0].dim
        own = [tensor.index_select(dim, part.entries(units)) for part in self.parts[name]]
        return join([*own, self.shared(name, tensor)], dim)

    def front(self, name: str, tensor: Tensor, units: int) -> Tensor:
        """The part of a tensor that the first units need: a view, or a copy for fused maps."""
        if units == self.units:
            return tensor
        parts = self.parts[name]
        views = [tensor.narrow(p.dim, p.offset, units * p.block) for p in parts]
        return join([*views, self.shared(name, tensor)], parts[0].dim)

    def fit(self, units: int) -> None:
        """Set the site's module to compute with `units` units, the number its tensors now have."""
        if self.kind == "attention":
            fit_heads(self.module, self.heads, units)
            if not units:  # FFN maps work with 0 neurons; attention does not with 0 heads
                self.module.forward = lambda *args, **given: nothing(
                    self.kind, self.layer, self.out.bias, *args, **given
                )

    @torch.no_grad()
    def permute(self, order: Tensor) -> None:
        """Reorder the units in place; the site computes the same as before."""
        order = order.to(self.out.weight.device)
        for name, tensor in self.tensors().items():
            tensor.copy_(self.take(name, tensor, order))

    def columns(self, units: Tensor) -> Tensor:
        """The columns of the output map that belong to these units."""
        return self.slices[-1].entries(units)


def join(tensors: list[Tensor], dim: int) -> Tensor:
    """Concatenate the tensors that are not empty; a single one is not copied."""
    full = [tensor for tensor in tensors if tensor.numel()] or tensors[:1]
    return full[0] if len(full) == 1 else torch.cat(full, dim)


def attributes(site: Site) -> dict[str, object]:
    """The attributes of a site's module, besides its tensors, that `show_front` may change."""
    return {name: value for name, value in vars(site.module).items() if name[0] != "_"}


def restore(site: Site, before: dict[str, object]) -> None:
    """Reset the attributes of a site's module to `before`."""
    for name in attributes(site).keys() - before.keys():
        delattr(site.module, name)
    vars(site.module).update(before)


def show_front(site: Site, full: dict[str, Tensor], units: int, own: bool = False) -> None:
    """Make a site compute with only the first `units` units of its `full` tensors.

    The new parameters are views of `full`; with `own` they are copies, contiguous as in a smaller
    checkpoint.
    """
    for name, tensor in full.items():
        owner, _, kind = name.rpartition(".")
        part = site.front(name, tensor, units)
        front = nn.Parameter(part.contiguous() if own else part, requires_grad=False)
        setattr(site.map(owner), kind, front)
    site.fit(units)


@torch.no_grad()
def keep_units(site: Site, kept: Tensor, bias: Tensor | None = None) -> None:
    """Cut a site in place to the units with indices `kept`, shape (k,), in this order.

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
        old = out.bias
        bias = bias.to(out.weight) if old is None else (bias.float() + old.float()).to(old)
        out.bias = nn.Parameter(bias, requires_grad=False)


def lost_output(weight: Tensor, kept: Tensor, mean: Tensor) -> Tensor:
    """The mean contribution of the columns not in `kept` to a site's output, float32 (hidden,).

    `weight` (hidden, c) is the output map's weight, `mean` (c,) the mean activation of its columns.
    """
    pruned = torch.ones(weight.shape[1], dtype=torch.bool)
    pruned[kept] = False
    return weight[:, pruned.to(weight.device)].float() @ mean[pruned].to(weight.device)
