"""The strongest rival of learned plans: score each site alone, then solve a knapsack per budget.

If losses of sites simply added up, this would be the best plan for any budget, in milliseconds,
after one profile of the model (the pattern of NVIDIA ModelOpt's Puzzletron). Where sites interact
it is a good place for a search to start from. The knapsack is a multiple-choice one: units of
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

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of a site, removed alone
COLUMNS = ("site", "kept", "reward")
QUANTIZED = ("site", "kept", "bits", "reward")
STEPS = 8000  # of what a plan costs, where that is not counted in neurons
UNITS = 128  # at least so many steps has the widest FFN when a plan is solved


@dataclass(frozen=True)
class AtBits:
    """Rewards with one site at fewer bits and all else whole; `table` has site, kept, bits, reward.

    `others` are measured likewise, numbered behind the sites; each keeps its one unit. `group`
    weights share a scale.
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

    `fingerprint` names the reward they were measured with; `at_bits` are rewards of quantized
    sites, where they were measured.
    """

    space: Space
    table: pd.DataFrame
    fingerprint: str = ""
    at_bits: AtBits | None = None

    def loss(self, site: int, kept: np.ndarray, bits: int = WHOLE) -> np.ndarray:
        """Reward lost when `site` alone keeps so many units at so many bits; linear between those
        measured."""
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
        """Reward that a plan loses if the losses of its sites add up."""
        bits = plan.bits or Bits((WHOLE,) * len(plan.kept))
        each = enumerate(zip(plan.kept, bits.sites, strict=True))
        lost = [self.loss(site, np.array(kept), n) for site, (kept, n) in each]
        names = self.at_bits.others if self.at_bits else ()
        lost += [
            self.loss(len(plan.kept) + names.index(name), np.array(1), n) for name, n in bits.others
        ]
        return float(sum(lost))

    def save(self, path: Path) -> None:
        """Write the table as Parquet, whole, with the fingerprint as a column."""
        table = self.table.assign(fingerprint=self.fingerprint)
        if self.at_bits:
            found = self.at_bits.table.assign(fingerprint=self.fingerprint)
            table = pd.concat([table.assign(bits=WHOLE), found], ignore_index=True)
            table.attrs["others"] = list(self.at_bits.others)
            table.attrs["group"] = self.at_bits.group
        table.attrs["space"] = asdict(self.space)  # goes into the file's metadata
        with replacing(path) as tmp:
            table.to_parquet(tmp, index=False)

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read what `save` wrote; LopError, naming file and column, when it cannot be one."""
        with reading(path, "a profile"):
            table, quantized = _by_bits(pd.read_parquet(path))
            space = _check_table(table)
            at_bits = None if quantized is None else _at_bits(quantized, len(space.units))
        return cls(space, table[list(COLUMNS)], table["fingerprint"].iloc[0], at_bits)

    def check_fits(self, space: Space) -> None:
        """Raise LopError unless it was measured on a model of this space."""
        if replace(space, ceilings=()) != self.space:
            raise LopError(
                f"profile of a model with units {list(self.space.units)} at its sites, this one "
                f"has {list(space.units)}, or other floors: measure it again"
            )


def _by_bits(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The rows of whole weights, and those of quantized ones, if there may be any."""
    if "bits" not in table:
        return table, None
    whole = table["bits"] == WHOLE
    return table[whole].drop(columns="bits"), table[~whole]


def _at_bits(table: pd.DataFrame, sites: int) -> AtBits:
    """What a profile's rows of quantized weights are; LopError for rows that are none."""
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
        raise LopError(f"column 'bits': expected the same of each of {wanted} sites and others")
    return found


def _check_table(table: pd.DataFrame) -> Space:
    """The space of a profile's table; LopError for a table that is none."""
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
        raise LopError(f"row {row}: its site and kept are there already")
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

    The most that a site may lose is measured too. That is about len(space.units) · len(shares)
    plans, of which a `lop.reward.Reward` runs only the layers from the cut one on.
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
    for layer, of in groupby(progress(cuts, "profile", len(cuts), "plan"), key=itemgetter(0)):
        with below(layer):
            for _, site, kept in of:
                rewards.append(reward(Plan(space, (*dense[:site], kept, *dense[site + 1 :]))))
    table = pd.DataFrame(cuts, columns=["layer", "site", "kept"]).drop(columns="layer")
    return Profile(space, table.assign(reward=rewards), getattr(reward, "fingerprint", ""))


def _grid(units: int, low: int, shares: Sequence[float]) -> list[int]:
    """The counts to measure, ascending: the least, what `shares` leave, and all."""
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
    """Measure every site (or only those of `layers`) at so many bits and with each of `shares`
    removed, and each of the `others` at so many bits: a table as `AtBits` has it.

    FFNs keep whole groups of neurons, or all of them.
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
    for (number, place), n in product(enumerate(others, len(whole)), bits):
        plan = Plan(space, space.units, Bits(whole, ((place, n),), group))
        rows.append((number, 1, n, reward(plan)))
    return pd.DataFrame(rows, columns=list(QUANTIZED))


def whole_groups(space: Space, site: int, kept: int, group: int) -> int:
    """So many units of a site or fewer, such that its output map is quantized in whole groups.

    All units stay as they are, what is close to a floor too, and attention, whose heads are as wide
    as a group or not.
    """
    if space.kinds[site] != "ffn" or kept == space.units[site]:
        return kept
    fewer = kept // group * group
    return fewer if fewer >= max(1, space.floors[site]) else kept


def solve(measured: Profile, target: float, space: Space | None = None) -> Plan:
    """The plan at pruning ratio `target` whose sites' losses have the least sum.

    `space` may bound the profile's further.
    """
    space = space or measured.space
    space.check_ratio(target)
    return solve_budget(measured, space.budget(target), space)


def solve_budget(measured: Profile, budget: int, space: Space) -> Plan:
    """The plan on a budget whose sites' losses have the least sum, by dynamic programming.

    Models whose FFNs are less than 2 · `UNITS` wide are solved neuron by neuron. Wider ones are
    cut in steps of width / UNITS neurons; what is left of the budget, less than a step a site, is
    spread evenly.
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
    """The plan of least loss whose sites' costs have a sum of at most `amount`.

    `cost` gives those of a site by its number of units, (n,) for (n,); they may be any that do not
    fall with it. Raises LopError where even the floors cost more.
    """
    space = space or measured.space
    options = options_of(space)
    real = [np.maximum.accumulate(cost(site, counts)) for site, counts in enumerate(options)]
    least = sum(float(of[0]) for of in real)
    if amount < least:
        raise LopError(f"{amount:,.1f} cannot be met: this model reaches {least:,.1f}")
    costs, room = in_steps(real, amount, 1e-9 / STEPS)
    losses = [measured.loss(site, counts) for site, counts in enumerate(options)]
    chosen = least_loss(losses, costs, room)
    return Plan(space, tuple(int(of[i]) for of, i in zip(options, chosen, strict=True)))


def in_steps(
    costs: Sequence[np.ndarray], amount: float, finest: float
) -> tuple[list[np.ndarray], int]:
    """Each site's rising costs above its least in whole steps, rounded up, and for how many steps
    `amount` has room. A step is at least `finest`."""
    least, most = (sum(float(of[end]) for of in costs) for end in (0, -1))
    step = max((most - least) / STEPS, finest)
    whole = [np.ceil((of - of[0]) / step - 1e-9).astype(int) for of in costs]
    return whole, int(min(amount - least, most - least) / step + 1e-9)


def options_of(space: Space, step: int | None = None) -> list[np.ndarray]:
    """The numbers of units that each site may keep, FFNs in steps of so many neurons; by default
    of so many that the widest site has at least `UNITS` of them."""
    step = step or space.multiple * max(1, max(space.units) // (UNITS * space.multiple))
    bounds = zip(space.floors, space.high, space.kinds, strict=True)
    found = []
    for low, high, kind in bounds:
        counts = np.arange(low, high + 1, step if kind == "ffn" else 1)
        # a step that does not go into a site would leave a narrow one its floor alone
        found.append(np.append(counts, high) if 2 * (high - counts[-1]) > step else counts)
    return found


def least_loss(
    losses: Sequence[np.ndarray], costs: Sequence[np.ndarray], room: int, spend: bool = True
) -> list[int]:
    """The number of each site's option whose losses have the least sum, at a sum of `costs` up to
    `room`, or as near to it as there is one (`spend`); options are listed by cost, from 0 on."""
    best = np.zeros(1)  # best[u]: least loss of the sites so far for u steps above their floors
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
    """One step of the knapsack: the least loss for each cost up to `room`, and the site's option
    in it, of those that have these `costs` and `losses`, (n,) both."""
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
    """What is needed for plans of this kind to begin with: nothing if uniform, else a profile."""
    if kind not in ("uniform", "knapsack"):
        raise LopError(f"plans to begin with {kind!r}: expected uniform or knapsack")
    if kind == "uniform":
        return None
    if path is None:
        raise LopError("to begin with the knapsack's plans, give a profile")
    return Profile.load(path)
