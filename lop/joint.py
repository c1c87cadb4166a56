"""Plans of units and bits: the best combination of pruning and quantization for a size in bytes.

Pruning removes whole units; quantization removes bits of all of them. The loss of each site at each
number of units and bits was measured with the other sites whole (`lop.profile.measure_bits`). If
losses add up, a multiple-choice knapsack finds the best plan for any number of bytes. If they do
not, a search from the knapsack's plan can improve it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from lop.errors import LopError
from lop.models.sizes import Sizes
from lop.plan import WHOLE, Bits, Plan, Space
from lop.profile import Profile, in_steps, least_loss, options_of, whole_groups

VERSION = 2  # of the plans that a search finds: raised when a change of the code changes them
TRIES = 60  # random exchanges from which a search chooses the next to judge


@dataclass(frozen=True)
class _Options:
    """A site's n options, by rising cost and falling loss; arrays (n,)."""

    units: np.ndarray
    bits: np.ndarray
    cost: np.ndarray  # bytes
    loss: np.ndarray  # of reward

    @classmethod
    def of(cls, units: list[int], bits: list[int], cost: list[int], loss: list[float]) -> _Options:
        """The options of these lists without those that cost more and lose no less than another."""
        order = np.lexsort((loss, cost))
        falls = np.minimum.accumulate(np.array(loss)[order])
        keep = order[np.r_[True, falls[1:] < falls[:-1]]]
        return cls(*(np.array(of)[keep] for of in (units, bits, cost, loss)))

    def only(self, rows: np.ndarray) -> _Options:
        """The options of these numbers."""
        return _Options(self.units[rows], self.bits[rows], self.cost[rows], self.loss[rows])


class Choices:
    """The units and bits that each site of a model may have, and the bits of its other weights.

    `measured` gives the losses, `sizes` the bytes. Each site has one of `bits`, where `WHOLE` means
    not quantized, and so has each of `others` that was measured (default: all measured ones). Plans
    are of `space` (default: the profile's). Raises LopError if the profile was not measured at
    these bits.
    """

    def __init__(
        self,
        measured: Profile,
        sizes: Sizes,
        bits: Sequence[int],
        space: Space | None = None,
        others: Sequence[str] | None = None,
    ) -> None:
        _check(measured, sizes, bits)
        self.bits = tuple(sorted(bits))
        self.measured, self.sizes, self.space = measured, sizes, space or measured.space
        known = measured.at_bits.others if measured.at_bits else ()
        self.others = [name for name in known if others is None or name in others]
        each = enumerate(options_of(self.space))
        self._options = [self._of_site(site, counts, bits) for site, counts in each]
        count = len(self._options)
        self._options += [
            self._of_other(count + known.index(name), name, bits) for name in self.others
        ]
        self._fixed = sizes.fixed + sizes.biases

    def _of_site(self, site: int, every: np.ndarray, bits: Sequence[int]) -> _Options:
        space, group = self.space, self.sizes.group
        units, at, lost = [], [], []
        for n in bits:
            counts = every
            if n != WHOLE:
                counts = np.unique([whole_groups(space, site, int(k), group) for k in every])
            units += counts.tolist()
            at += [n] * len(counts)
            lost += self.measured.loss(site, counts, n).tolist()
        cost = [self.sizes.site(site, *each) for each in zip(units, at, strict=True)]
        return _Options.of(units, at, cost, lost)

    def _of_other(self, number: int, name: str, bits: Sequence[int]) -> _Options:
        cost = [-self.sizes.saved(name, n) for n in bits]
        one = np.array(1)
        lost = [float(self.measured.loss(number, one, n)) if n != WHOLE else 0.0 for n in bits]
        return _Options.of([1] * len(bits), list(bits), cost, lost)

    def solve(self, amount: float) -> list[int]:
        """The options of least loss whose checkpoint has at most `amount` bytes of weights.

        The bytes that are left are too few to improve any site. Raises LopError if even the
        smallest plan has more bytes.
        """
        return self._filled(self._least([of.loss for of in self._options], amount), amount)

    def starts(self, amount: float) -> list[list[int]]:
        """What `solve` finds with all bits, and then with each smaller choice of them.

        Losses do not exactly add up, so a plan of fewer bits may have a better reward. Choices that
        cannot meet the amount are left out. Raises LopError if even the smallest plan has more
        bytes.
        """
        found = [self.solve(amount)]
        for count in range(len(self.bits) - 1, 0, -1):
            for some in combinations(self.bits, count):
                with suppress(LopError):
                    found.append(self._solve_with(some, amount))
        return [list(of) for of in dict.fromkeys(map(tuple, found))]

    def _solve_with(self, bits: Sequence[int], amount: float) -> list[int]:
        """`solve` with only some of the bits."""
        rows = [np.flatnonzero(np.isin(of.bits, bits)) for of in self._options]
        if not all(map(len, rows)):
            raise LopError(f"bits {list(bits)}: at some site, others cost less and lose no more")
        fewer = copy(self)
        fewer._options = [of.only(at) for of, at in zip(self._options, rows, strict=True)]
        return [int(at[i]) for at, i in zip(rows, fewer.solve(amount), strict=True)]

    @property
    def reach(self) -> tuple[int, int]:
        """Bytes of the smallest and of the largest plan."""
        least, most = (sum(int(of.cost[end]) for of in self._options) for end in (0, -1))
        return self._fixed + least, self._fixed + most

    def _least(self, losses: Sequence[np.ndarray], amount: float) -> list[int]:
        """The options with the least sum of `losses` within `amount` bytes."""
        least, most = self.reach
        if amount < least:
            raise LopError(
                f"size of {amount:,.0f} cannot be met: this model reaches {least:,} to {most:,}"
            )
        costs, room = in_steps([of.cost for of in self._options], amount - self._fixed, 1)
        return least_loss(losses, costs, room, spend=False)

    def near(self, removed: np.ndarray, amount: float, start: Sequence[int]) -> list[int]:
        """The options within `amount` bytes that are nearest to `removed`, by squares.

        The bytes that they leave are spent as in `solve`, but not on what has fewer than in
        `start`. `start` itself may be nearer, as the knapsack counts bytes in steps.
        """
        count = len(self.space.units)
        wanted = np.zeros((len(self._options), 2))
        wanted[:count, 0], wanted[:, 1] = removed[:count], removed[count:]
        each = zip(map(self._removed, range(len(wanted)), self._options), wanted, strict=True)
        apart = [np.square(of - aim).sum(1) for of, aim in each]
        found = self._least(apart, amount)

        def far(chosen: Sequence[int]) -> float:
            return sum(float(of[i]) for of, i in zip(apart, chosen, strict=True))

        if far(start) <= far(found):
            return list(start)
        gave = [i < before for i, before in zip(found, start, strict=True)]
        return self._filled(found, amount, gave)

    def removed(self, plan: Plan) -> np.ndarray:
        """The shares that a plan removes: of each site's units, and of the bits of each site and of
        each of the others, (2S + O,)."""
        bits = plan.bits or Bits((WHOLE,) * len(plan.kept))
        small = dict(bits.others)
        stored = [*bits.sites, *(small.get(name, WHOLE) for name in self.others)]
        return np.array([*plan.ratios, *(1 - n / WHOLE for n in stored)])

    def _removed(self, number: int, of: _Options) -> np.ndarray:
        """What options remove of units and of bits, (n, 2)."""
        count = len(self.space.units)
        units = 1 - of.units / (self.space.units[number] if number < count else 1)
        return np.stack([units, 1 - of.bits / WHOLE], 1)

    def _left(self, chosen: Sequence[int], amount: float) -> int:
        """Bytes of the budget `amount` that the chosen options leave."""
        each = zip(self._options, chosen, strict=True)
        return int(amount) - self._fixed - sum(int(of.cost[i]) for of, i in each)

    def _filled(
        self, chosen: Sequence[int], amount: float, fixed: Sequence[bool] | None = None
    ) -> list[int]:
        """Spend the bytes that are left, each time on the site that gains most and is not `fixed`,
        until none fits."""
        found = list(chosen)
        while True:
            left, gains = self._left(found, amount), []
            for number, (of, i) in enumerate(zip(self._options, found, strict=True)):
                within = int(np.searchsorted(of.cost, of.cost[i] + left, side="right")) - 1
                within = i if fixed and fixed[number] else within
                gains.append((float(of.loss[i] - of.loss[within]), number, within))
            gain, number, within = max(gains)
            if gain <= 0:
                return found
            found[number] = within

    def exchanged(
        self, chosen: Sequence[int], amount: float, rng: np.random.Generator
    ) -> list[int]:
        """The chosen options after a random exchange: one site gets fewer bytes, another the bytes
        that this frees."""
        found = list(chosen)
        giver, taker = rng.permutation(len(found))[:2]
        if found[giver] > 0:
            found[giver] = int(rng.integers(max(0, found[giver] - 16), found[giver]))
            of, left = self._options[taker], self._left(found, amount)
            room = of.cost[found[taker]] + left
            found[taker] = max(found[taker], int(np.searchsorted(of.cost, room, side="right")) - 1)
        return self._filled(found, amount)

    def loss(self, chosen: Sequence[int]) -> float:
        """The reward that the chosen options lose if losses add up."""
        return float(sum(of.loss[i] for of, i in zip(self._options, chosen, strict=True)))

    def plan(self, chosen: Sequence[int]) -> Plan:
        """The plan of the chosen options, given by their numbers."""
        each = list(zip(self._options, chosen, strict=True))
        count = len(self.space.units)
        units = tuple(int(of.units[i]) for of, i in each[:count])
        bits = [int(of.bits[i]) for of, i in each]
        small = zip(self.others, bits[count:], strict=True)
        others = tuple((name, n) for name, n in small if n != WHOLE)
        if not others and min(bits[:count]) == WHOLE:
            return Plan(self.space, units)
        return Plan(self.space, units, Bits(tuple(bits[:count]), others, self.sizes.group))


def _check(measured: Profile, sizes: Sizes, bits: Sequence[int]) -> None:
    at = measured.at_bits
    for n in bits:
        if n != WHOLE and (at is None or n not in set(at.table["bits"])):
            raise LopError(f"the profile was not measured at {n} bits: `lop profile --bits {n}`")
    if at and at.group != sizes.group:
        raise LopError(f"the profile was measured in groups of {at.group}, not of {sizes.group}")


def solve_size(
    measured: Profile,
    sizes: Sizes,
    amount: float,
    bits: Sequence[int],
    space: Space | None = None,
    others: Sequence[str] | None = None,
) -> Plan:
    """The plan of least loss within `amount` bytes of weights; arguments as in `Choices`."""
    choices = Choices(measured, sizes, bits, space, others)
    return choices.plan(choices.solve(amount))


def search(
    reward: Callable[[Plan], float],
    choices: Choices,
    amount: float,
    simulations: int,
    rng: np.random.Generator,
) -> Iterator[tuple[Plan, float]]:
    """Yield better and better plans of units and bits within `amount` bytes, with their rewards.

    The first is the knapsack's plan. Then the search judges its plans with fewer choices of bits,
    and from the best of these goes on by random exchanges between two sites, first those that lose
    least by the profile; it continues from each plan that is better. Exchanges do not change the
    bits of other weights: each change would run the whole model again.
    """
    current, *fewer = choices.starts(amount)
    best, seen = reward(choices.plan(current)), {tuple(current)}
    yield choices.plan(current), best
    for start in fewer[: simulations - 1]:
        seen.add(tuple(start))
        found = reward(plan := choices.plan(start))
        if found > best:
            current, best = start, found
            yield plan, found
    count = len(choices.space.units)
    for _ in range(simulations - len(seen)):
        drawn = {tuple(choices.exchanged(current, amount, rng)) for _ in range(TRIES)}
        new = [each for each in drawn - seen if each[count:] == tuple(current[count:])]
        if not new:
            return
        chosen = min(new, key=lambda each: (choices.loss(each), each))
        seen.add(chosen)
        found = reward(plan := choices.plan(chosen))
        if found > best:
            current, best = list(chosen), found
            yield plan, found


def at_bits(plan: Plan, bits: int, others: Sequence[str], group: int) -> Plan:
    """The plan with all sites and `others` at `bits`.

    Pruned FFNs keep whole groups of neurons, so slightly fewer neurons.
    """
    space = plan.space
    kept = tuple(whole_groups(space, i, k, group) for i, k in enumerate(plan.kept))
    at = Bits((bits,) * len(kept), tuple((name, bits) for name in others), group)
    return Plan(space, kept, at)
