"""Targets other than a ratio: parameters, bytes on disk, FLOPs a token, turned into one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from lop.errors import LopError
from lop.models.site import Amount, Site, numel
from lop.models.space import linear_weights
from lop.models.stored import Stored
from lop.models.weights import DTYPES
from lop.plan import Plan, Space

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
LOOKS = 1000  # at ratios, for one at which all of several methods meet a target

PlanAt = Callable[[float], Plan]  # a method's plan at a pruning ratio


@dataclass(frozen=True)
class Cost:
    """What a dense model has of something, and how much of it goes with the units of its sites.

    `units` (S,) is what a unit of each site has, `rest` (S,) what goes with a site's last unit
    besides it, and `biases` what compensation adds to a model that is pruned at all.
    """

    name: str
    dense: int
    space: Space
    units: tuple[int, ...]
    rest: tuple[int, ...]
    biases: int = 0

    def of(self, plan: Plan) -> int:
        """What the pruned model has, exactly."""
        return self.of_units(plan.kept)

    def of_units(self, units: Sequence[int]) -> int:
        """The same of a model with so many units a site, (S,), which may be more than it had."""
        each = zip(self.space.units, units, self.units, self.rest, strict=True)
        gone = sum((d - k) * unit + (0 if k else rest) for d, k, unit, rest in each)
        return self.dense - gone + (self.biases if tuple(units) != self.space.units else 0)

    def ratio(self, target: float) -> float:
        """The smallest pruning ratio whose uniform plan has at most `target`."""
        return smallest_ratio(
            self.name, self.space, self.of, target, partial(Plan.uniform, self.space)
        )


def smallest_ratio(
    name: str,
    space: Space,
    cost: Callable[[Plan], float],
    target: float,
    plan_at: PlanAt,
    between: tuple[float, float] = (0.0, 1.0),
) -> float:
    """The smallest pruning ratio whose plan costs at most `target`, by bisection, to the neuron.

    `name` is what is counted; `between` bounds the ratios. Raises LopError, naming the reachable
    range, when there is none.
    """
    steps = _Steps(space, between)

    def costs(number: int) -> float:
        return cost(plan_at(steps.ratio(number)))

    first, last = steps.first, steps.last
    top, least = costs(first), costs(last)
    if not least <= target <= top:
        raise LopError(
            f"{name} of {_shown(target)} cannot be met: this model reaches {_shown(least)} to "
            f"{_shown(top)}"
        )
    if target == top:
        return steps.ratio(first)
    return steps.ratio(_bisected(first, last, lambda number: costs(number) <= target))


def next_ratio(
    space: Space, meets: Callable[[float], bool], between: tuple[float, float]
) -> float | None:
    """The smallest pruning ratio between two at which `meets` says yes, wherever it says no.

    Where there are more than `LOOKS` of them, as many are looked at, and then those before the
    first that meets. None where none does.
    """
    steps = _Steps(space, between)
    stride = max(1, -(-(steps.last - steps.first) // LOOKS))
    for number in [*range(steps.first, steps.last, stride), steps.last]:
        if number >= steps.first and meets(steps.ratio(number)):
            low = max(number - stride, steps.first - 1)
            return steps.ratio(_bisected(low, number, lambda each: meets(steps.ratio(each))))
    return None


@dataclass(frozen=True)
class _Steps:
    """Pruning ratios between two, numbered by the neurons that a budget loses."""

    space: Space
    between: tuple[float, float]

    @property
    def first(self) -> int:
        space = self.space
        gone = -(-(space.total - space.cost(space.high)) // space.step)  # by bounds of the widest
        return max(gone, ceil(self.between[0] * (space.total / space.step)))

    @property
    def last(self) -> int:
        top = min(self.space.max_ratio, self.between[1])
        return floor(top * (self.space.total / self.space.step))

    def ratio(self, number: int) -> float:
        """What a number is as a ratio."""
        share = number / (self.space.total / self.space.step)
        return min(max(share, self.between[0]), self.between[1])


def _bisected(low: int, high: int, meets: Callable[[int], bool]) -> int:
    """A number that meets, with one before it that does not, given that of two others."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high


def ceil(value: float) -> int:
    """Rounded up, but for what is a whole number within rounding errors."""
    return math.ceil(value - 1e-9)


def floor(value: float) -> int:
    """Rounded down likewise."""
    return math.floor(value + 1e-9)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:,.4g}"


def parameters(model: Stored, space: Space, compensate: bool = False) -> Cost:
    """Parameters; tied ones count once."""
    return _cost("parameters", model, space, model.parameters, numel, compensate)


def size(model: Stored, space: Space, compensate: bool = False) -> Cost:
    """Bytes of weights on disk, at the dtype that the checkpoint has."""

    def amount(site: Site, name: str) -> int:
        return model.tensors[f"{site.name}.{name}"].size

    dense = sum(entry.size for entry in set(model.tensors.values()))
    return _cost("size", model, space, dense, amount, compensate)


def flops_per_token(model: Stored, space: Space, compensate: bool = False) -> Cost:
    """FLOPs of the language model a token: two for each weight of its linear maps.

    Attention's own products are left out: they grow with the context. Biases are left out too.
    """

    def amount(site: Site, name: str) -> int:
        weight = site.module.get_parameter(name)
        return 2 * weight.numel() if weight.ndim == 2 else 0

    dense = 2 * linear_weights(model.model)
    return _cost("FLOPs per token", model, space, dense, amount, False)


COSTS = {"params": parameters, "size": size, "flops_per_token": flops_per_token}


def amount(text: str) -> float:
    """`5.2B`, `9GB`, `8.5GiB`, `1.2e9` -> a number."""
    match = re.fullmatch(r"([\d.]+(?:e\d+)?)\s*([KMGT]i|[KMGTB]?)B?", text.strip())
    try:
        if match:
            return float(match[1]) * (UNITS | BINARY)[match[2]]
    except ValueError:
        pass
    raise LopError(f"{text!r}: expected an amount such as 5.2B, 9GB, 8.5GiB or 1.2e9")


def _cost(
    name: str, model: Stored, space: Space, dense: int, amount: Amount, compensate: bool
) -> Cost:
    sites = model.sites(space.scope)
    units, rest, biases = [], [], 0
    for site in sites:
        own = site.cost(amount)
        bias = f"{site.output}.bias"
        stays = {bias} if site.out.bias is not None else set()
        all_of = {name for name, _ in site.module.named_parameters()} - stays
        units.append(own)
        rest.append(sum(amount(site, each) for each in all_of) - own * site.units)
        if compensate and not stays:
            width = 1 if name == "parameters" else DTYPES[_output(model, site)].itemsize
            biases += site.out.out_features * width
    return Cost(name, dense, space, tuple(units), tuple(rest), biases)


def _output(model: Stored, site: Site) -> str:
    """The dtype of a site's output map in its file, which a bias that is added gets too."""
    return model.tensors[f"{site.name}.{site.output}.weight"].dtype
