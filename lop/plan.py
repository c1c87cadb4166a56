"""A space says what can be cut from a model, a plan what of it is kept; budgets are met here only.

Everything that proposes layer-wise ratios (searchers, predictors, baselines) comes through
`Plan.from_ratios`, `Plan.nearest` or `Plan.within`, so every plan in lop meets its budget: it is
never above, and less than one FFN neuron below. (`Space.multiple` of them, where widths are
multiples; a head, where one costs more than all that FFNs may give and take.)
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
# of sites, in the order in which a layer has them
SCOPES: Mapping[str, tuple[Kind, ...]] = {"ffn": ("ffn",), "ffn+attention": ("attention", "ffn")}
FLOORS: Mapping[Kind, float] = {"ffn": 0.1, "attention": 0.1}  # the paper clips ratios to [0, 0.9]
MAX_SITES = 8192
WHOLE = 16  # bits of weights that are not quantized: they stay at the checkpoint's dtype
Units = Annotated[int, Field(gt=0, le=2**32)]


@dataclass(frozen=True)
class Space:
    """What can be cut from a model: its sites in order, (S,) each.

    A site has `units` of one `kind` in decoder layer `layers[i]`; one unit costs `costs[i]`
    parameters, at least `floors[i]` are kept, and at most `ceilings[i]` (all of them where there
    are no ceilings). FFNs keep multiples of `multiple` neurons. Raises LopError for what cannot be
    one.
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
            raise LopError("space: expected as many sites in every list")
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

        Rounded down, but at least one unit where the share is not 0; a site of share 0 may be
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
        """The space of FFNs of these widths whose neurons cost the same."""
        count = len(widths)
        of = ([1] * count, ["ffn"] * count, range(count))
        return cls.of(widths, *of, {"ffn": floor}, multiple)  # type: ignore[arg-type]

    @property
    def scope(self) -> str:
        """The scope of these kinds of sites, of `SCOPES`."""
        return "ffn+attention" if "attention" in self.kinds else "ffn"

    @cached_property
    def grain(self) -> int:
        """Parameters of an FFN neuron, the smallest where they differ."""
        return min(cost for cost, kind in zip(self.costs, self.kinds, strict=True) if kind == "ffn")

    @property
    def step(self) -> int:
        """Parameters from a budget to the next: those of `multiple` neurons."""
        return self.grain * self.multiple

    @cached_property
    def weights(self) -> np.ndarray:
        """What a unit of each site costs, (S,), in FFN neurons."""
        return np.array(self.costs) / self.grain

    @cached_property
    def total(self) -> int:
        """Parameters of all units."""
        return self.cost(self.units)

    def cost(self, kept: Iterable[int]) -> int:
        """Parameters of so many units of each site."""
        return sum(k * cost for k, cost in zip(kept, self.costs, strict=True))

    @property
    def high(self) -> tuple[int, ...]:
        """The most units that each site may keep."""
        return self.ceilings or self.units

    def bounded(self, widest: float) -> Space:
        """The same with no FFN keeping more than this share of its neurons.

        Raises LopError where that is below its floor.
        """
        most = []
        for n, kind in zip(self.units, self.kinds, strict=True):
            share = int(n * widest + 1e-9) // self.multiple * self.multiple
            most.append(share if kind == "ffn" else n)
        if any(n < low for n, low in zip(most, self.floors, strict=True)):
            raise LopError(f"widest {widest:g}: is below the share that an FFN keeps at least")
        return replace(self, ceilings=tuple(most))

    @property
    def max_ratio(self) -> float:
        """The largest pruning ratio that leaves every site its floor."""
        return (self.total - self.cost(self.floors)) // self.step * self.step / self.total

    def budget(self, ratio: float) -> int:
        """Parameters that a plan at pruning `ratio` may keep: a whole number of steps is gone."""
        gone = round(ratio * (self.total / self.grain))
        return self.total - -(-gone // self.multiple) * self.step

    def check_ratio(self, ratio: float) -> None:
        """Raise LopError, naming the reachable range, when no plan can meet `ratio`."""
        if not (0 <= ratio < 1 and self.budget(ratio) >= self.cost(self.floors)):
            top = np.floor(self.max_ratio * 1e4) / 1e4
            raise LopError(
                f"pruning ratio {ratio:g} cannot be met: this model reaches 0 to {top:g} "
                f"(floors keep {1 - self.max_ratio:.3g} of what can be cut)"
            )
        if (most := self.cost(self.high)) < self.budget(ratio):
            raise LopError(
                f"pruning ratio {ratio:g} cannot be met: these bounds of the widest FFN remove "
                f"{1 - most / self.total:.4f} at least"
            )

    @property
    def dense(self) -> Plan:
        """The plan that keeps everything."""
        return Plan(self, self.units)

    def fits(self, other: Space) -> bool:
        """Whether both are of the same sites, whatever their floors."""
        names = ("units", "kinds", "layers")
        return all(getattr(self, name) == getattr(other, name) for name in names)


@dataclass(frozen=True)
class Bits:
    """Bits a weight: of each site (S,), and by name of other weights that are quantized.

    `group` weights that follow each other in a row share a scale.
    """

    sites: tuple[int, ...]
    others: tuple[tuple[str, int], ...] = ()
    group: int = 32


@dataclass(frozen=True)
class Plan:
    """How many units each site of a space keeps, `kept[i]`, (S,), and at how many bits, if any are
    quantized."""

    space: Space
    kept: tuple[int, ...]
    bits: Bits | None = None

    def __post_init__(self) -> None:
        units = self.space.units
        if self.bits and len(self.bits.sites) != len(units):
            raise LopError(f"plan has bits of {len(self.bits.sites)} sites, not of {len(units)}")
        if len(units) != len(self.kept):
            raise LopError(f"plan has {len(self.kept)} sites, the model has {len(units)}")
        if any(not 0 <= k <= d for k, d in zip(self.kept, units, strict=True)):
            raise LopError(f"plan keeps {self.kept} of {units}: expected none to all of each")

    @classmethod
    def uniform(cls, space: Space, ratio: float) -> Plan:
        """The same ratio at every site, on the budget."""
        return cls.from_ratios([ratio] * len(space.units), space, ratio)

    @classmethod
    def from_ratios(cls, ratios: Iterable[float], space: Space, target: float) -> Plan:
        """The plan nearest to pruning `ratios` of the sites that meets the global `target`.

        Adds one common shift to all ratios, clipped to each site's bounds (for equal widths the
        Euclidean projection onto the budget), then rounds by largest remainder: attention first,
        whose units are large, and then FFNs, which take what that leaves.

        Raises LopError when `target` is out of reach or `ratios` does not fit the model.
        """
        space.check_ratio(target)
        return cls.within(space, ratios, space.budget(target))

    def nearest(self, ratios: Iterable[float]) -> Plan:
        """The plan nearest to these ratios on the budget of this one."""
        return self.within(self.space, ratios, self.budget)

    @classmethod
    def within(cls, space: Space, ratios: Iterable[float], amount: int) -> Plan:
        """The plan nearest to `ratios` that keeps at most `amount` parameters, a budget."""
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
        """The budget that it meets, as `Space.budget` has them."""
        space = self.space
        return space.total - (space.total - self.parameters) // space.step * space.step

    @property
    def parameters(self) -> int:
        """Parameters of the units that are kept."""
        return self.space.cost(self.kept)

    @property
    def ratios(self) -> tuple[float, ...]:
        """Pruning ratios θ of the sites, share of units removed."""
        return tuple(1 - k / d for k, d in zip(self.kept, self.space.units, strict=True))

    @property
    def ratio(self) -> float:
        """Global pruning ratio: share of the space's parameters removed."""
        return 1 - self.parameters / self.space.total

    def of(self, kind: Kind) -> tuple[int, ...]:
        """What the sites of a kind keep."""
        each = zip(self.kept, self.space.kinds, strict=True)
        return tuple(k for k, of in each if of == kind)

    def evened(self) -> Plan:
        """The ordinary plan below this one: as many units at every site of a kind, where they have
        as many.

        It keeps less than a neuron (or `multiple`) a layer below the budget, so that the checkpoint
        has one FFN width and one head count.
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
    """A ratio as it stands in names: short where that is exact, so that no two share one."""
    short = f"{ratio:g}"
    return short if float(short) == ratio else repr(float(ratio))


def per_cent(ratio: float) -> str:
    """A ratio as a page shows it: `20 %`, with as many digits as tell it from its neighbours."""
    return f"{100 * ratio:.10g} %"


# ends the names of methods whose checkpoints are cut out of recovered weights
RECOVERED = "_recovered"


def checkpoint_name(method: str, ratio: float) -> str:
    """What the checkpoint of a method at a ratio is called, wherever it is named."""
    return f"{method}-{written(ratio)}"


def site_names(layers: Iterable[int], kinds: Iterable[Kind]) -> list[str]:
    """What sites are called on a page: `layer 3` its FFN, and `layer 3 attention` beside it."""
    each = zip(layers, kinds, strict=True)
    return [f"layer {i}" + (f" {kind}" if kind != "ffn" else "") for i, kind in each]


def check_once(kind: str, values: Sequence[object]) -> None:
    """Raise LopError where one of `values`, each a `kind`, is given twice."""
    if twice := [value for i, value in enumerate(values) if value in values[:i]]:
        raise LopError(f"{kind} {twice[0]!r} is named twice")


def shift_to_sum(
    keep: np.ndarray,
    units: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    weights: np.ndarray,
    total: float,
) -> np.ndarray:
    """Find s with Σ weights · clip(keep + s·units, *bounds) = total, and return the clip.

    The sum is linear in s between the shifts at which a site meets a bound.
    """
    low, high = bounds
    shifts = np.sort(np.concatenate([(low - keep) / units, high / units - keep / units]))
    sums = (weights * np.clip(keep + shifts[:, None] * units, low, high)).sum(1)
    return np.clip(keep + np.interp(total, sums, shifts) * units, low, high)


def _whole_heads(space: Space, keep: np.ndarray, at: np.ndarray, amount: int) -> np.ndarray:
    """Attention units kept: near to `keep` together, and such that FFNs can meet `amount`."""
    costs, low = np.array(space.costs), np.array(space.floors)
    high = np.array(space.high)
    ffns = [int((costs * bound)[~at].sum()) for bound in (low, high)]
    kept = np.clip(np.floor(keep[at] + 1e-6).astype(int), low[at], high[at])
    wanted = float((costs * keep)[at].sum())

    def spent() -> int:
        return int((costs[at] * kept).sum())

    # largest remainders up while that is nearer to what is wanted; then within FFNs' reach
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
    """Round each entry down or up so that they cost at most `amount`, largest remainders first.

    What they cost is then less than the cheapest below it, where the bounds allow.
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
