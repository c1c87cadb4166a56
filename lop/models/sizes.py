"""Bytes on disk of the weights that `lop.models.cutting` writes, by units and bits."""

from __future__ import annotations

from lop.models.costs import size
from lop.models.quantized import fits, others_of, packed_size, weights_of
from lop.models.stored import Stored
from lop.models.weights import DTYPES
from lop.plan import WHOLE, Plan, Space


class Sizes:
    """The bytes of a model's plans on disk, with `group` weights for each scale.

    `fixed` is the bytes that no plan changes; `others` names the parts of the model besides the
    sites that can be quantized.
    """

    def __init__(self, model: Stored, space: Space, group: int, compensate: bool = False) -> None:
        self.model, self.space, self.group = model, space, group
        self.sites = model.sites(space.scope)
        self.others = others_of(model.model, self.sites)
        self._whole = size(model, space, compensate)
        units = enumerate(space.units)
        self.fixed = self._whole.dense - sum(self.site(i, n, WHOLE) for i, n in units)
        self.biases = self._whole.biases  # bytes that compensation adds to every pruned model

    def site(self, number: int, units: int, bits: int) -> int:
        """Bytes of a site with `units` units at `bits`, without the bias of its output map."""
        whole = units * self._whole.units[number] + (self._whole.rest[number] if units else 0)
        site = self.sites[number]
        names = [(f"{site.name}.{name}", site.shape(name, units)) for name in weights_of(site)]
        return whole - sum(self._saved(name, shape, bits) for name, shape in names)

    def saved(self, part: str, bits: int) -> int:
        """Bytes that quantizing one of the `others` to `bits` saves."""
        weights = [f"{name}.weight" for name in self.others[part]]
        shapes = [self.model.tensors[name].shape for name in weights]
        return sum(self._saved(*each, bits) for each in zip(weights, shapes, strict=True))

    def _saved(self, name: str, shape: tuple[int, ...], bits: int) -> int:
        """Bytes that quantizing a weight of this shape to `bits` saves."""
        if bits == WHOLE or not fits(shape, self.group):
            return 0
        itemsize = DTYPES[self.model.tensors[name].dtype].itemsize
        rows, columns = shape
        whole, packed = (packed_size(rows, columns, itemsize, n, self.group) for n in (WHOLE, bits))
        return whole - packed

    def of(self, plan: Plan) -> int:
        """The exact bytes of a plan's checkpoint."""
        bits = plan.bits.sites if plan.bits else (WHOLE,) * len(plan.kept)
        each = enumerate(zip(plan.kept, bits, strict=True))
        total = self.fixed + sum(self.site(i, *of) for i, of in each)
        total -= sum(self.saved(*of) for of in (plan.bits.others if plan.bits else ()))
        return total + (self.biases if plan.kept != self.space.units else 0)
