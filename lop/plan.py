"""A space describes what can be cut from a model, a plan what is kept; only this module meets
budgets.

Searchers, predictors and baselines propose ratios and get plans from `Plan.from_ratios`,
`Plan.nearest` or `Plan.within`, so every plan meets its budget: it is never above, and less than
one FFN neuron below. (With `Space.multiple`, less than that many neurons below; if one head costs
more than all FFNs can compensate, less than a head.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field

from lop.errors import LopError

Kind = Literal["ffn", "attention"]
# kinds of sites in each scope, in their order within a layer
SCOPES: Mapping[str, tuple[Kind, ...]] = {"ffn": ("ffn",), "ffn+attention": ("attention", "ffn")}
FLOORS: Mapping[Kind, float] = {"ffn": 0.1, "attention": 0.1}  # the paper clips ratios to [0, 0.9]
MAX_SITES = 8192
WHOLE = 16  # stands for weights that are not quantized: they keep the checkpoint's dtype
Units = Annotated[int, Field(gt=0, le=2**32)]


@dataclass(frozen=True)
class Space:
    """What can be cut from a model: its S sites in order; each list has one entry for each site.

    Site i has `units[i]` units of kind `kinds[i]` in decoder layer `layers[i]`; a unit costs
    `costs[i]` parameters. A plan keeps at least `floors[i]` and at most `ceilings[i]` of them (all,
    without ceilings). FFNs keep multiples of `multiple` neurons. Raises LopError for invalid lists.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    units: Annotated[tuple[Units, ...], Field(min_length=1, max_length=MAX_SITES)]
    costs: tuple[Units, ...]
    kinds: tuple[Kind, ...]
    layers: tuple[int, ...]
    floors: tuple[int, ...]
    multiple: Annotated[int, Field(gt=0)] = 1
    ceilings: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        lists = (self.units, self.costs, self.kinds, self.layers, self.floors)
        if len({len(each) for each in lists}) > 1:
            raise LopError("space: expected lists of equal length")
        if not all(0 <= low <= n for low, n in zip(self.floors, self.units, strict=True)):
            raise LopError(f"space: floors {self.floors}: expected 0 to all units of each site")
        if self.ceilings and len(self.ceilings) != len(self.units):
            raise LopError("space: expected as many ceilings as sites, or none")
        if "ffn" not in self.kinds:
            raise LopError(f"space: kinds {self.kinds}: expected FFNs among them")
        ffns = [n for n, kind in zip(self.units, self.kinds, strict=True) if kind == "ffn"]
        if wrong := [n for n in ffns if n % self.multiple]:
            raise LopError(
                f"multiple_of {self.multiple} does not divide an FFN of {wrong[0]} neurons; "
                "expected a divisor"
            )

    @classmethod
    def of(
        cls,
        units: Iterable[int],
        costs: Iterable[int],
        kinds: Iterable[Kind],
        layers: Iterable[int],
        floors: Mapping[Kind, float] = FLOORS,
        multiple: int = 1,
    ) -> Space:
        """The space whose floors are these shares of a site's units.

        Floors are rounded down, but to at least one unit. With a share of 0 the site may be
        skipped.
        """
        units, kinds = tuple(units), tuple(kinds)
        low = []
        for n, kind in zip(units, kinds, strict=True):
            step = multiple if kind == "ffn" else 1
            share = floors[kind]
            low.append(-(-max(1, int(n * share + 1e-9)) // step) * step if share else 0)
        return cls(units, tuple(costs), kinds, tuple(layers), tuple(low), multiple)

    @classmethod
    def ffns(cls, widths: Sequence[int], floor: float = FLOORS["ffn"], multiple: int = 1) -> Space:
        """A space of FFNs with these widths, whose neurons all cost the same."""
        count = len(widths)
        of = ([1] * count, ["ffn"] * count, range(count))
        return cls.of(widths, *of, {"ffn": floor}, multiple)  # type: ignore[arg-type]

    @property
    def scope(self) -> str:
        """The scope, a key of `SCOPES`, with these kinds of sites."""
        return "ffn+attention" if "attention" in self.kinds else "ffn"

    @cached_property
    def grain(self) -> int:
        """Parameters of the smallest FFN neuron."""
        return min(cost for cost, kind in zip(self.costs, self.kinds, strict=True) if kind == "ffn")

    @property
    def step(self) -> int:
        """Parameters between two adjacent budgets: those of `multiple` neurons."""
        return self.grain * self.multiple

    @cached_property
    def weights(self) -> np.ndarray:
        """The cost of a unit of each site, (S,), in FFN neurons."""
        return np.array(self.costs) / self.grain

    @cached_property
    def total(self) -> int:
        """Parameters of all units."""
        return self.cost(self.units)

    def cost(self, kept: Iterable[int]) -> int:
        """Parameters of `kept` units of each site."""
        return sum(k * cost for k, cost in zip(kept, self.costs, strict=True))

    @property
    def high(self) -> tuple[int, ...]:
        """The most units that each site may keep."""
        return self.ceilings or self.units

    def bounded(self, widest: float) -> Space:
        """This space with ceilings: an FFN keeps at most a share `widest` of its neurons.

        Raises LopError if this is below an FFN's floor.
        """
        most = []
        for n, kind in zip(self.units, self.kinds, strict=True):
            share = int(n * widest + 1e-9) // self.multiple * self.multiple
            most.append(share if kind == "ffn" else n)
        if any(n < low for n, low in zip(most, self.floors, strict=True)):
            raise LopError(f"widest {widest:g}: is below the floor, the least that an FFN keeps")
        return replace(self, ceilings=tuple(most))

    @property
    def max_ratio(self) -> float:
        """The largest pruning ratio that leaves every site its floor."""
        return (self.total - self.cost(self.floors)) // self.step * self.step / self.total

    def budget(self, ratio: float) -> int:
        """Parameters that a plan at pruning `ratio` may keep: whole steps are removed."""
        gone = round(ratio * (self.total / self.grain))
        return self.total - -(-gone // self.multiple) * self.step

    def check_ratio(self, ratio: float) -> None:
        """Raise LopError with the reachable range if no plan can meet `ratio`."""
        if not (0 <= ratio < 1 and self.budget(ratio) >= self.cost(self.floors)):
            top = np.floor(self.max_ratio * 1e4) / 1e4
            raise LopError(
                f"pruning ratio {ratio:g} cannot be met: this model reaches 0 to {top:g} "
                f"(floors keep {1 - self.max_ratio:.3g} of what can be cut)"
            )
        if (most := self.cost(self.high)) < self.budget(ratio):
            raise LopError(
                f"pruning ratio {ratio:g} cannot be met: the bound of the widest FFN removes at "
                f"least {1 - most / self.total:.4f}"
            )

    @property
    def dense(self) -> Plan:
        """The plan that keeps everything."""
        return Plan(self, self.units)

    def fits(self, other: Space) -> bool:
        """Whether both spaces have the same sites, regardless of floors."""
        names = ("units", "kinds", "layers")
        return all(getattr(self, name) == getattr(other, name) for name in names)


@dataclass(frozen=True)
class Bits:
    """Bits of the weights of each site, (S,), and of other quantized weights by name.

    `group` adjacent weights in a row share a scale.
    """

    sites: tuple[int, ...]
    others: tuple[tuple[str, int], ...] = ()
    group: int = 32


@dataclass(frozen=True)
class Plan:
    """The number of units that each site of a space keeps, (S,), and their bits if any site is
    quantized."""

    space: Space
    kept: tuple[int, ...]
    bits: Bits | None = None

    def __post_init__(self) -> None:
        units = self.space.units
        if self.bits and len(self.bits.sites) != len(units):
            raise LopError(f"plan has bits for {len(self.bits.sites)} sites, expected {len(units)}")
        if len(units) != len(self.kept):
            raise LopError(f"plan has {len(self.kept)} sites, the model has {len(units)}")
        if any(not 0 <= k <= d for k, d in zip(self.kept, units, strict=True)):
            raise LopError(f"plan keeps {self.kept} of {units}: expected none to all of each")

    @classmethod
    def uniform(cls, space: Space, ratio: float) -> Plan:
        """The plan with the same ratio at every site, adjusted to the budget."""
        return cls.from_ratios([ratio] * len(space.units), space, ratio)

    @classmethod
    def from_ratios(cls, ratios: Iterable[float], space: Space, target: float) -> Plan:
        """The plan nearest to the sites' pruning `ratios` that meets the global ratio `target`.

        All ratios are shifted by the same amount and clipped to each site's bounds (for equal
        widths, the Euclidean projection onto the budget), then rounded by largest remainder:
        attention first, whose units are large, then FFNs within the remaining budget.

        Raises LopError if `target` is out of reach or `ratios` do not fit the model.
        """
        space.check_ratio(target)
        return cls.within(space, ratios, space.budget(target))

    def nearest(self, ratios: Iterable[float]) -> Plan:
        """The plan nearest to these ratios with the budget of this plan."""
        return self.within(self.space, ratios, self.budget)

    @classmethod
    def within(cls, space: Space, ratios: Iterable[float], amount: int) -> Plan:
        """The plan nearest to `ratios` that meets the budget of `amount` parameters."""
        d, theta = np.asarray(space.units, dtype=float), np.asarray(list(ratios), dtype=float)
        if theta.shape != d.shape:
            raise LopError(f"got {theta.size} ratios for a model with {d.size} sites")
        if not np.isfinite(theta).all():
            raise LopError(f"ratios of sites must be finite numbers, got {theta.tolist()}")
        low, high, w = np.array(space.floors), np.array(space.high, float), space.weights
        keep = shift_to_sum((1 - theta) * d, d, (low, high), w, amount / space.grain)
        kept = np.zeros(len(d), int)
        ffn = np.array([kind == "ffn" for kind in space.kinds])
        if not ffn.all():
            kept[~ffn] = _whole_heads(space, keep, ~ffn, amount)
            amount -= space.cost(kept)
            room = amount / space.grain
            keep[ffn] = shift_to_sum(keep[ffn], d[ffn], (low[ffn], high[ffn]), w[ffn], room)
        step, costs = space.multiple, np.array(space.costs)[ffn]
        bounds = low[ffn] // step, high[ffn] / step
        kept[ffn] = step * _round_to_sum(keep[ffn] / step, *bounds, costs * step, amount)
        return cls(space, tuple(int(k) for k in kept))

    @property
    def budget(self) -> int:
        """The budget (see `Space.budget`) that this plan meets."""
        space = self.space
        return space.total - (space.total - self.parameters) // space.step * space.step

    @property
    def parameters(self) -> int:
        """Parameters of the kept units."""
        return self.space.cost(self.kept)

    @property
    def ratios(self) -> tuple[float, ...]:
        """Pruning ratios θ of the sites: shares of removed units."""
        return tuple(1 - k / d for k, d in zip(self.kept, self.space.units, strict=True))

    @property
    def ratio(self) -> float:
        """Global pruning ratio: removed share of the space's parameters."""
        return 1 - self.parameters / self.space.total

    def of(self, kind: Kind) -> tuple[int, ...]:
        """The units that the sites of a kind keep."""
        each = zip(self.kept, self.space.kinds, strict=True)
        return tuple(k for k, of in each if of == kind)

    def evened(self) -> Plan:
        """This plan with equal units at all sites of a kind, if the source has equal units there.

        Its checkpoint then has one FFN width and one head count. It is less than one neuron (or
        `multiple` neurons) per layer below the budget.
        """
        space, kept = self.space, np.array(self.kept)
        left = self.budget
        for kind in sorted(set(space.kinds)):  # attention first
            at = np.array([of == kind for of in space.kinds])
            if len({space.units[i] for i in np.flatnonzero(at)}) > 1:
                return self
            costs = np.array(space.costs)[at]
            if kind == "ffn":
                most = left // costs.sum()
                kept[at] = most - most % space.multiple
            else:
                mean = kept[at].mean()
                kept[at] = max(1, round(mean)) if mean else 0
                left -= int((kept[at] * costs).sum())
        within = (kept >= space.floors).all() and (kept <= space.high).all()
        return Plan(space, tuple(int(k) for k in kept)) if within else self


def written(ratio: float) -> str:
    """A ratio as text for names: short if that is exact, so distinct ratios have distinct names."""
    short = f"{ratio:g}"
    return short if float(short) == ratio else repr(float(ratio))


def per_cent(ratio: float) -> str:
    """A ratio as text for pages: `20 %`, with enough digits to be distinct."""
    return f"{100 * ratio:.10g} %"


# suffix of the names of methods whose checkpoints are cut from recovered weights
RECOVERED = "_recovered"


def checkpoint_name(method: str, ratio: float) -> str:
    """The name of a method's checkpoint at a ratio."""
    return f"{method}-{written(ratio)}"


def site_names(layers: Iterable[int], kinds: Iterable[Kind]) -> list[str]:
    """Names of sites for pages: `layer 3` for an FFN, `layer 3 attention` for attention."""
    each = zip(layers, kinds, strict=True)
    return [f"layer {i}" + (f" {kind}" if kind != "ffn" else "") for i, kind in each]


def check_once(kind: str, values: Sequence[object]) -> None:
    """Raise LopError if one of `values`, each a `kind`, occurs twice."""
    if twice := [value for i, value in enumerate(values) if value in values[:i]]:
        raise LopError(f"{kind} {twice[0]!r} is named twice")


def shift_to_sum(
    keep: np.ndarray,
    units: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    weights: np.ndarray,
    total: float,
) -> np.ndarray:
    """Find s with Σ weights · clip(keep + s·units, *bounds) = total, and return the clipped values.

    The sum is linear in s between the values of s at which a site reaches a bound.
    """
    low, high = bounds
    shifts = np.sort(np.concatenate([(low - keep) / units, high / units - keep / units]))
    sums = (weights * np.clip(keep + shifts[:, None] * units, low, high)).sum(1)
    return np.clip(keep + np.interp(total, sums, shifts) * units, low, high)


def _whole_heads(space: Space, keep: np.ndarray, at: np.ndarray, amount: int) -> np.ndarray:
    """Whole attention units to keep: they cost about as `keep`, and FFNs can meet `amount`."""
    costs, low = np.array(space.costs), np.array(space.floors)
    high = np.array(space.high)
    ffns = [int((costs * bound)[~at].sum()) for bound in (low, high)]
    kept = np.clip(np.floor(keep[at] + 1e-6).astype(int), low[at], high[at])
    wanted = float((costs * keep)[at].sum())

    def spent() -> int:
        return int((costs[at] * kept).sum())

    # round up the largest remainders while that gets nearer to `wanted`; then meet FFNs' limits
    for i in np.argsort(kept - keep[at], kind="stable"):
        if kept[i] < high[at][i] and spent() + costs[at][i] / 2 <= wanted:
            kept[i] += 1
    order = np.argsort(keep[at] - kept, kind="stable")
    for i in [*order] * int(high[at].max()):
        if amount - spent() < ffns[0] and kept[i] > low[at][i]:
            kept[i] -= 1
    for i in [*order[::-1]] * int(high[at].max()):
        left = amount - spent()
        if left > ffns[1] and kept[i] < high[at][i] and left - costs[at][i] >= ffns[0]:
            kept[i] += 1
    return kept


def _round_to_sum(
    keep: np.ndarray, low: np.ndarray, high: np.ndarray, costs: np.ndarray, amount: int
) -> np.ndarray:
    """Round entries down or up, by largest remainders, so that they cost at most `amount`.

    If the bounds allow, the cost is less than one cheapest unit below `amount`.
    """
    kept = np.clip(np.floor(keep + 1e-6).astype(int), low, high.astype(int))
    by_remainder = np.argsort(kept - keep, kind="stable")
    for step, order in ((-1, by_remainder[::-1]), (1, by_remainder)):
        moved = True
        while moved:
            moved = False
            for i in order:
                left = amount - int((costs * kept).sum())
                if step < 0 and left >= 0:
                    break
                if step > 0 and left < costs[i]:
                    continue
                if low[i] <= kept[i] + step <= high[i]:
                    kept[i] += step
                    moved = True
    return kept
