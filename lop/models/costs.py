"""Converts targets in parameters, bytes on disk or FLOPs per token into a pruning ratio."""

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
LOOKS = 1000  # ratios that `next_ratio` tries before it refines the first that meets the target

PlanAt = Callable[[float], Plan]  # a method's plan at a pruning ratio


@dataclass(frozen=True)
class Cost:
    """A cost (parameters, bytes or FLOPs) of a model as a function of its plan."""

    name: str
    dense: int  # of the dense model
    space: Space
    units: tuple[int, ...]  # of one unit of each site, (S,)
    rest: tuple[int, ...]  # removed with the last unit of each site, besides that unit's cost; (S,)
    biases: int = 0  # added to every pruned model by compensation

    def of(self, plan: Plan) -> int:
        """The exact cost of the pruned model."""
        return self.of_units(plan.kept)

    def of_units(self, units: Sequence[int]) -> int:
        """The cost with these numbers of units, (S,); a site may have more than in the source."""
        each = zip(self.space.units, units, self.units, self.rest, strict=True)
        gone = sum((d - k) * unit + (0 if k else rest) for d, k, unit, rest in each)
        return self.dense - gone + (self.biases if tuple(units) != self.space.units else 0)

    def ratio(self, target: float) -> float:
        """The smallest pruning ratio whose uniform plan costs at most `target`."""
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
    """The smallest pruning ratio whose plan costs at most `target`, by bisection over neurons.

    `name` is the name of the cost; `between` bounds the ratios. Raises LopError with the reachable
    range if there is no such ratio.
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
    """The smallest pruning ratio in a range at which `meets` is true; None if there is none.

    `meets` need not be monotonic. If the range has more than `LOOKS` ratios, that many are tried;
    then bisection refines the first that meets.
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
    """Pruning ratios in a range, numbered by the budget steps that they remove."""

    space: Space
    between: tuple[float, float]

    @property
    def first(self) -> int:
        space = self.space
        gone = -(-(space.total - space.cost(space.high)) // space.step)  # removed by the ceilings
        return max(gone, ceil(self.between[0] * (space.total / space.step)))

    @property
    def last(self) -> int:
        top = min(self.space.max_ratio, self.between[1])
        return floor(top * (self.space.total / self.space.step))

    def ratio(self, number: int) -> float:
        """The ratio with this number."""
        share = number / (self.space.total / self.space.step)
        return min(max(share, self.between[0]), self.between[1])


def _bisected(low: int, high: int, meets: Callable[[int], bool]) -> int:
    """The number after one that does not meet; `low` must not meet, `high` must."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high


def ceil(value: float) -> int:
    """Round up, except for a whole number with a rounding error."""
    return math.ceil(value - 1e-9)


def floor(value: float) -> int:
    """Round down likewise."""
    return math.floor(value + 1e-9)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:,.4g}"


def parameters(model: Stored, space: Space, compensate: bool = False) -> Cost:
    """Parameters; tied parameters count once."""
    return _cost("parameters", model, space, model.parameters, numel, compensate)


def size(model: Stored, space: Space, compensate: bool = False) -> Cost:
    """Bytes of weights on disk, at the checkpoint's dtype."""

    def amount(site: Site, name: str) -> int:
        return model.tensors[f"{site.name}.{name}"].size

    dense = sum(entry.size for entry in set(model.tensors.values()))
    return _cost("size", model, space, dense, amount, compensate)


def flops_per_token(model: Stored, space: Space, compensate: bool = False) -> Cost:
    """FLOPs of the language model per token: two for each weight of its linear maps.

    Biases are not counted, nor attention's products of queries, keys and values, which grow with
    the context.
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
    """The dtype of a site's output map in its file; an added bias gets the same dtype."""
    return model.tensors[f"{site.name}.{site.output}.weight"].dtype
