"""The strongest baseline for learned plans: measure each site alone, then solve a knapsack.

If the losses of sites added up exactly, this would give the best plan for any budget in
milliseconds, after one profile of the model (as in NVIDIA ModelOpt's Puzzletron). Sites interact,
but the plan is still a good start for a search. It is a multiple-choice knapsack, because units of
attention and of FFNs differ in cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import groupby, product
from operator import itemgetter
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
from pandas.api.types import is_integer_dtype, is_numeric_dtype
from pydantic import ConfigDict, SkipValidation

from lop.errors import LopError
from lop.files import reading, replacing
from lop.plan import WHOLE, Bits, Plan, Space
from lop.progress import progress
from lop.typed import as_typed

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of a site's units, removed to measure it
COLUMNS = ("site", "kept", "reward")
QUANTIZED = ("site", "kept", "bits", "reward")
STEPS = 8000  # resolution of costs other than parameters in the knapsack
UNITS = 128  # at least so many steps has the widest FFN in the knapsack


@dataclass(frozen=True)
class AtBits:
    """Rewards with one site cut and quantized; `table` has site, kept, bits, reward.

    `others` are quantized weights outside the sites. In `table` they have the numbers after the
    sites, and one unit each, which is kept. `group` weights share a scale.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True
    )

    table: Annotated[pd.DataFrame, SkipValidation]
    others: tuple[str, ...]
    group: int


@dataclass(frozen=True)
class Profile:
    """Rewards with one site cut and all others whole; `table` has site, kept, reward.

    `fingerprint` is that of the reward function; `at_bits` has the rewards of quantized sites, if
    measured.
    """

    space: Space
    table: pd.DataFrame
    fingerprint: str = ""
    at_bits: AtBits | None = None

    def loss(self, site: int, kept: np.ndarray, bits: int = WHOLE) -> np.ndarray:
        """Reward lost when only `site` is cut to `kept` units at `bits`, interpolated linearly."""
        rows = self.table[self.table["site"] == site].sort_values("kept")
        rewards = rows["reward"].to_numpy()
        if bits == WHOLE:
            return rewards[-1] - np.interp(kept, rows["kept"], rewards)
        assert self.at_bits
        dense, table = self.dense, self.at_bits.table
        rows = table[(table["site"] == site) & (table["bits"] == bits)].sort_values("kept")
        return dense - np.interp(kept, rows["kept"], rows["reward"])

    @property
    def dense(self) -> float:
        """The reward of the unpruned model."""
        first = self.table[self.table["site"] == 0]
        return float(first.loc[first["kept"].idxmax(), "reward"])

    def predicted(self, plan: Plan) -> float:
        """The reward that a plan loses if the losses of its sites add up."""
        bits = plan.bits or Bits((WHOLE,) * len(plan.kept))
        each = enumerate(zip(plan.kept, bits.sites, strict=True))
        lost = [self.loss(site, np.array(kept), n) for site, (kept, n) in each]
        names = self.at_bits.others if self.at_bits else ()
        lost += [
            self.loss(len(plan.kept) + names.index(name), np.array(1), n) for name, n in bits.others
        ]
        return float(sum(lost))

    def save(self, path: Path) -> None:
        """Write the table as Parquet, atomically, with the fingerprint as a column."""
        table = self.table.assign(fingerprint=self.fingerprint)
        if self.at_bits:
            found = self.at_bits.table.assign(fingerprint=self.fingerprint)
            table = pd.concat([table.assign(bits=WHOLE), found], ignore_index=True)
            table.attrs["others"] = list(self.at_bits.others)
            table.attrs["group"] = self.at_bits.group
        table.attrs["space"] = asdict(self.space)  # saved in the file's metadata
        with replacing(path) as tmp:
            table.to_parquet(tmp, index=False)

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read what `save` wrote; LopError with file and column if it is not a profile."""
        with reading(path, "a profile"):
            table, quantized = _by_bits(pd.read_parquet(path))
            space = _check_table(table)
            at_bits = None if quantized is None else _at_bits(quantized, len(space.units))
        return cls(space, table[list(COLUMNS)], table["fingerprint"].iloc[0], at_bits)

    def check_fits(self, space: Space) -> None:
        """Raise LopError unless the profile was measured on a model with this space."""
        if replace(space, ceilings=()) != self.space:
            raise LopError(
                f"profile of a model with units {list(self.space.units)}; this model has "
                f"{list(space.units)}, or other floors: measure the profile again"
            )


def _by_bits(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The rows of whole weights, and those of quantized weights (None without a column `bits`)."""
    if "bits" not in table:
        return table, None
    whole = table["bits"] == WHOLE
    return table[whole].drop(columns="bits"), table[~whole]


def _at_bits(table: pd.DataFrame, sites: int) -> AtBits:
    """The `AtBits` of a profile's rows of quantized weights; LopError for invalid rows."""
    attrs = {"others": table.attrs.get("others"), "group": table.attrs.get("group")}
    found = as_typed(AtBits, attrs | {"table": table[list(QUANTIZED)]}, "its bits")
    for name in ("site", "kept", "bits"):
        if not is_integer_dtype(table[name]) or not table[name].ge(0).all():
            raise LopError(f"column {name!r}: expected whole numbers from 0 on")
    if not is_numeric_dtype(table["reward"]) or not np.isfinite(table["reward"]).all():
        raise LopError("column 'reward': expected finite numbers")
    wanted = sites + len(found.others)
    there = set(zip(table["site"], table["bits"], strict=True))
    if there != {(site, n) for site in range(wanted) for n in set(table["bits"])}:
        raise LopError(f"column 'bits': expected the same for each of {wanted} sites and others")
    return found


def _check_table(table: pd.DataFrame) -> Space:
    """The space of a profile's table; LopError for an invalid table."""
    if missing := [name for name in (*COLUMNS, "fingerprint") if name not in table]:
        raise LopError(f"column {missing[0]!r} is missing")
    if table.empty:
        raise LopError("no rows")
    for name in ("site", "kept"):
        if not is_integer_dtype(table[name]) or not table[name].ge(0).all():
            raise LopError(f"column {name!r}: expected whole numbers from 0 on")
    if not is_numeric_dtype(table["reward"]) or not np.isfinite(table["reward"]).all():
        raise LopError("column 'reward': expected finite numbers")
    space = as_typed(Space, table.attrs.get("space"), "its space")
    most = table.groupby("site")["kept"].max().to_dict()
    if wrong := [i for i, units in enumerate(space.units) if most.get(i) != units]:
        raise LopError(f"column 'site': no row of site {wrong[0]} with all of its units")
    if len(most) > len(space.units):
        raise LopError(f"column 'site': {max(most)}, expected less than {len(space.units)}")
    if table.duplicated(["site", "kept"]).any():
        row = int(np.flatnonzero(table.duplicated(["site", "kept"]))[0]) + 1
        raise LopError(f"row {row}: repeats the site and kept of an earlier row")
    names = table["fingerprint"].unique()
    if len(names) > 1 or not isinstance(names[0], str):
        raise LopError("column 'fingerprint': expected one text in all rows")
    return space


def measure(
    reward: Callable[[Plan], float],
    space: Space,
    shares: Sequence[float] = SHARES,
    layers: Sequence[int] | None = None,
) -> Profile:
    """Measure every site (or only those of `layers`) with each of `shares` removed, all others
    whole.

    Each site is also measured at its floor. These are about len(space.units) · len(shares) plans;
    for each, a `lop.reward.Reward` runs only the layers from the cut layer on.
    """
    dense = space.units
    cuts = [
        (layer, site, kept)
        for site, layer in enumerate(space.layers)
        for kept in _grid(dense[site], space.floors[site], shares)
        if layers is None or layer in layers
    ]
    below = getattr(reward, "dense_below", lambda layer: nullcontext())
    rewards = []
    for layer, each in groupby(progress(cuts, "profile", len(cuts), "plan"), key=itemgetter(0)):
        with below(layer):
            for _, site, kept in each:
                rewards.append(reward(Plan(space, (*dense[:site], kept, *dense[site + 1 :]))))
    table = pd.DataFrame(cuts, columns=["layer", "site", "kept"]).drop(columns="layer")
    return Profile(space, table.assign(reward=rewards), getattr(reward, "fingerprint", ""))


def _grid(units: int, low: int, shares: Sequence[float]) -> list[int]:
    """The numbers of kept units to measure, ascending: the floor, those after `shares`, and all."""
    return sorted({low, units, *(max(low, units - round(share * units)) for share in shares)})


def measure_bits(
    reward: Callable[[Plan], float],
    space: Space,
    bits: Sequence[int],
    group: int,
    shares: Sequence[float] = SHARES,
    layers: Sequence[int] | None = None,
    others: Sequence[str] = (),
) -> pd.DataFrame:
    """Measure every site (or only those of `layers`) at each of `bits` with each of `shares`
    removed, and each of `others` at each of `bits`; returns the table of `AtBits`.

    FFNs keep whole groups of neurons, or all neurons.
    """
    whole, rows = (WHOLE,) * len(space.units), []
    below = getattr(reward, "dense_below", lambda layer: nullcontext())
    for site, layer in enumerate(space.layers):
        if layers is not None and layer not in layers:
            continue
        counts = _grid(space.units[site], space.floors[site], shares)
        of_groups = dict.fromkeys(whole_groups(space, site, count, group) for count in counts)
        with below(layer):
            for n, kept in product(bits, of_groups):
                units = (*space.units[:site], kept, *space.units[site + 1 :])
                at = Bits((*whole[:site], n, *whole[site + 1 :]), (), group)
                rows.append((site, kept, n, reward(Plan(space, units, at))))
    for (number, name), n in product(enumerate(others, len(whole)), bits):
        plan = Plan(space, space.units, Bits(whole, ((name, n),), group))
        rows.append((number, 1, n, reward(plan)))
    return pd.DataFrame(rows, columns=list(QUANTIZED))


def whole_groups(space: Space, site: int, kept: int, group: int) -> int:
    """`kept` units of a site, rounded down so that its output map has whole groups.

    The number is unchanged if all units are kept, if fewer would be below the floor, and for
    attention, where the head size decides whether groups are whole.
    """
    if space.kinds[site] != "ffn" or kept == space.units[site]:
        return kept
    fewer = kept // group * group
    return fewer if fewer >= max(1, space.floors[site]) else kept


def solve(measured: Profile, target: float, space: Space | None = None) -> Plan:
    """The plan at pruning ratio `target` with the least sum of its sites' losses.

    `space` may have tighter bounds than the profile's.
    """
    space = space or measured.space
    space.check_ratio(target)
    return solve_budget(measured, space.budget(target), space)


def solve_budget(measured: Profile, budget: int, space: Space) -> Plan:
    """The plan for a budget with the least sum of its sites' losses, by dynamic programming.

    FFNs narrower than 2 · `UNITS` are solved neuron by neuron, wider FFNs in steps of
    width / UNITS neurons. The rest of the budget, less than one step for each site, is spread
    evenly.
    """
    widest = max(n for n, kind in zip(space.units, space.kinds, strict=True) if kind == "ffn")
    step = space.multiple * max(1, widest // (UNITS * space.multiple))  # neurons
    price = step * space.grain
    options = options_of(space, step)
    costs = [  # in steps of FFN neurons
        -(-(counts - counts[0]) * cost // price)
        for counts, cost in zip(options, space.costs, strict=True)
    ]
    room = (budget - space.cost(space.floors)) // price
    losses = [measured.loss(site, counts) for site, counts in enumerate(options)]
    chosen = least_loss(losses, costs, room)
    kept = [counts[i] for counts, i in zip(options, chosen, strict=True)]
    ratios = [1 - k / d for k, d in zip(kept, space.units, strict=True)]
    return Plan.within(space, ratios, budget)


def solve_within(
    measured: Profile,
    cost: Callable[[int, np.ndarray], np.ndarray],
    amount: float,
    space: Space | None = None,
) -> Plan:
    """The plan of least loss whose sites cost at most `amount` together.

    `cost(site, units)` returns a site's costs for numbers of units, (n,) -> (n,); they must not
    fall with the number. Raises LopError if even the floors cost more.
    """
    space = space or measured.space
    options = options_of(space)
    real = [np.maximum.accumulate(cost(site, counts)) for site, counts in enumerate(options)]
    least = sum(float(site_costs[0]) for site_costs in real)
    if amount < least:
        raise LopError(f"{amount:,.1f} cannot be met: this model reaches {least:,.1f}")
    costs, room = in_steps(real, amount, 1e-9 / STEPS)
    losses = [measured.loss(site, counts) for site, counts in enumerate(options)]
    chosen = least_loss(losses, costs, room)
    return Plan(space, tuple(int(counts[i]) for counts, i in zip(options, chosen, strict=True)))


def in_steps(
    costs: Sequence[np.ndarray], amount: float, finest: float
) -> tuple[list[np.ndarray], int]:
    """Each site's costs above its least cost, in whole steps rounded up, and the number of steps
    within `amount`. A step is at least `finest`."""
    least, most = (sum(float(of[end]) for of in costs) for end in (0, -1))
    step = max((most - least) / STEPS, finest)
    whole = [np.ceil((of - of[0]) / step - 1e-9).astype(int) for of in costs]
    return whole, int(min(amount - least, most - least) / step + 1e-9)


def options_of(space: Space, step: int | None = None) -> list[np.ndarray]:
    """The numbers of units that each site may keep, for FFNs in steps of `step` neurons (default:
    steps of which the widest site has at least `UNITS`)."""
    step = step or space.multiple * max(1, max(space.units) // (UNITS * space.multiple))
    bounds = zip(space.floors, space.high, space.kinds, strict=True)
    found = []
    for low, high, kind in bounds:
        counts = np.arange(low, high + 1, step if kind == "ffn" else 1)
        # without this, a site narrower than a step could only keep its floor
        found.append(np.append(counts, high) if 2 * (high - counts[-1]) > step else counts)
    return found


def least_loss(
    losses: Sequence[np.ndarray], costs: Sequence[np.ndarray], room: int, spend: bool = True
) -> list[int]:
    """The number of each site's option with the least sum of losses, for a sum of `costs` of at
    most `room`, or with `spend` as near to it as possible. Options are sorted by cost, from 0."""
    best = np.zeros(1)  # best[u]: least loss of the sites so far with u steps above their floors
    choices = []
    for of_site, lost in zip(costs, losses, strict=True):
        best, choice = _add_site(best, of_site, lost, room)
        choices.append(choice)
    reached = np.flatnonzero(np.isfinite(best))
    chosen, left = [], int(reached[-1] if spend else np.argmin(best))
    for of_site, choice in zip(reversed(costs), reversed(choices), strict=True):
        option = int(choice[left])
        chosen.append(option)
        left -= int(of_site[option])
    return chosen[::-1]


def _add_site(
    best: np.ndarray, costs: np.ndarray, losses: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """One step of the knapsack, adding a site whose options have these `costs` and `losses`, (n,):
    the least loss for each total cost up to `room`, and the site's option there."""
    size = min(len(best) + int(costs[-1]), room + 1)
    total, choice = np.full(size, np.inf), np.zeros(size, dtype=int)
    for option, (cost, loss) in enumerate(zip(costs, losses, strict=True)):
        if cost >= size:
            break
        end = min(size, cost + len(best))
        candidate = best[: end - cost] + loss
        better = candidate < total[cost:end]
        total[cost:end][better] = candidate[better]
        choice[cost:end][better] = option
    return total, choice


def beginning(kind: str, path: Path | None) -> Profile | None:
    """The profile needed for start plans of this kind: None for `uniform`; `knapsack` needs one."""
    if kind not in ("uniform", "knapsack"):
        raise LopError(f"start plans {kind!r}: expected uniform or knapsack")
    if kind == "uniform":
        return None
    if path is None:
        raise LopError("start plans 'knapsack' need a profile")
    return Profile.load(path)
