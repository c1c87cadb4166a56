"""Plans of units and bits: what a budget of bytes is best spent on.

Pruning takes whole units away, quantizing takes a share of all of them. What a site loses at so
many units and bits was measured alone (`lop.profile.measure_bits`); if losses add up, a
multiple-choice knapsack over both finds the best plan for any number of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from lop.errors import LopError
from lop.models.sizes import Sizes
from lop.plan import WHOLE, Bits, Plan, Space
from lop.profile import STEPS, UNITS, Profile, least_loss, options_of, whole_groups


@dataclass(frozen=True)
class _Options:
    """What a site may be, by rising cost and falling loss: units, bits, bytes, reward lost; (n,)
    each."""

    units: np.ndarray
    bits: np.ndarray
    cost: np.ndarray
    loss: np.ndarray

    @classmethod
    def of(cls, units: list[int], bits: list[int], cost: list[int], loss: list[float]) -> _Options:
        """Those of which none costs more than another that loses no more."""
        order = np.lexsort((loss, cost))
        falls = np.minimum.accumulate(np.array(loss)[order])
        keep = order[np.r_[True, falls[1:] < falls[:-1]]]
        return cls(*(np.array(of)[keep] for of in (units, bits, cost, loss)))


def solve_size(
    measured: Profile,
    sizes: Sizes,
    amount: float,
    bits: Sequence[int],
    space: Space | None = None,
    others: Sequence[str] | None = None,
) -> Plan:
    """The plan of least loss whose checkpoint has at most `amount` bytes of weights.

    Every site, and each of the `others` that was measured (default: all of them), gets one of
    `bits`, of which `WHOLE` is one where its weights may stay as they are. What is left of the
    budget is less than the least that would make any of them better. Raises LopError where even the
    smallest plan takes more, or bits were not measured.
    """
    space = space or measured.space
    known = measured.at_bits.others if measured.at_bits else ()
    names = [name for name in known if others is None or name in others]
    _check(measured, sizes, bits)
    options = [_of_site(measured, sizes, site, bits, space) for site in range(len(space.units))]
    options += [
        _of_other(measured, sizes, len(space.units) + known.index(name), name, bits)
        for name in names
    ]
    fixed = sizes.fixed + sizes.biases
    least, most = (fixed + sum(int(of.cost[end]) for of in options) for end in (0, -1))
    if amount < least:
        raise LopError(
            f"size of {amount:,.0f} cannot be met: this model reaches {least:,} to {most:,}"
        )
    quantum = max(1, (most - least) / STEPS)
    costs = [np.ceil((of.cost - of.cost[0]) / quantum - 1e-9).astype(int) for of in options]
    room = int(min(amount - least, most - least) / quantum + 1e-9)
    chosen = least_loss([of.loss for of in options], costs, room, spend=False)
    chosen = _filled(options, chosen, int(amount) - fixed)
    return _plan(options, chosen, space, names, sizes.group)


def candidates(
    measured: Profile, sizes: Sizes, amount: float, bits: Sequence[int], space: Space | None = None
) -> list[Plan]:
    """The plans within `amount` bytes that `solve_size` finds with all of `bits`, or fewer of them.

    Losses do not quite add up: a reward may find one better that has less to choose from. Raises
    LopError where there is none.
    """
    found, told = [], None
    for count in range(len(bits), 0, -1):
        for some in combinations(bits, count):
            try:
                found.append(solve_size(measured, sizes, amount, some, space))
            except LopError as error:
                told = told or error
    if told and not found:
        raise told
    return list(dict.fromkeys(found))


def _check(measured: Profile, sizes: Sizes, bits: Sequence[int]) -> None:
    at = measured.at_bits
    for n in bits:
        if n != WHOLE and (at is None or n not in set(at.table["bits"])):
            raise LopError(f"the profile was not measured at {n} bits: `lop profile --bits {n}`")
    if at and at.group != sizes.group:
        raise LopError(f"the profile was measured in groups of {at.group}, not of {sizes.group}")


def _of_site(
    measured: Profile, sizes: Sizes, site: int, bits: Sequence[int], space: Space
) -> _Options:
    """The units and bits that a site may have."""
    step = space.multiple * max(1, max(space.units) // (UNITS * space.multiple))
    every = options_of(space, step)[site]
    units, at, lost = [], [], []
    for n in bits:
        counts = every
        if n != WHOLE:
            counts = np.unique([whole_groups(space, site, int(k), sizes.group) for k in every])
            counts = counts[(counts >= space.floors[site]) & (counts <= space.high[site])]
        units += counts.tolist()
        at += [n] * len(counts)
        lost += measured.loss(site, counts, n).tolist()
    cost = [sizes.site(site, *each) for each in zip(units, at, strict=True)]
    return _Options.of(units, at, cost, lost)


def _of_other(
    measured: Profile, sizes: Sizes, number: int, name: str, bits: Sequence[int]
) -> _Options:
    """The bits that weights besides the sites may have."""
    cost = [-sizes.saved(name, n) for n in bits]
    loss = [0.0 if n == WHOLE else float(measured.loss(number, np.array(1), n)) for n in bits]
    return _Options.of([1] * len(bits), list(bits), cost, loss)


def _filled(options: Sequence[_Options], chosen: Sequence[int], room: int) -> list[int]:
    """Spend what is left of `room` bytes, each time on what gains most, until nothing fits."""
    found = list(chosen)
    while True:
        left = room - sum(int(of.cost[i]) for of, i in zip(options, found, strict=True))
        gains = []
        for number, (of, i) in enumerate(zip(options, found, strict=True)):
            within = int(np.searchsorted(of.cost, of.cost[i] + left, side="right")) - 1
            gains.append((float(of.loss[i] - of.loss[within]), number, within))
        gain, number, within = max(gains)
        if gain <= 0:
            return found
        found[number] = within


def _plan(
    options: Sequence[_Options],
    chosen: Sequence[int],
    space: Space,
    others: Sequence[str],
    group: int,
) -> Plan:
    units, bits = (
        [int(getattr(of, name)[i]) for of, i in zip(options, chosen, strict=True)]
        for name in ("units", "bits")
    )
    count = len(space.units)
    of_others = zip(others, bits[count:], strict=True)
    small = tuple((name, n) for name, n in of_others if n != WHOLE)
    quantized = small or min(bits[:count]) < WHOLE
    at = Bits(tuple(bits[:count]), small, group) if quantized else None
    return Plan(space, tuple(units[:count]), at)


def at_bits(plan: Plan, bits: int, others: Sequence[str], group: int) -> Plan:
    """A plan with all its sites, and the others, at so many bits.

    FFNs that lose neurons keep whole groups of them: a few less.
    """
    space = plan.space
    kept = tuple(whole_groups(space, i, k, group) for i, k in enumerate(plan.kept))
    at = Bits((bits,) * len(kept), tuple((name, bits) for name in others), group)
    return Plan(space, kept, at)
