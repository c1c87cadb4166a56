"""The strongest rival of learned plans: score each layer alone, then solve a knapsack per budget.

If losses of layers simply added up, this would be the best plan for any budget, in milliseconds,
after one profile of the model (the pattern of NVIDIA ModelOpt's Puzzletron). Where layers interact
it is a good place for a search to start from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.types import is_integer_dtype, is_numeric_dtype

from lop.errors import LopError
from lop.files import replacing
from lop.plan import MIN_KEEP, Plan, budget, check_ratio, min_kept
from lop.progress import progress
from lop.search.base import Evaluated, RewardOf

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of a layer, removed alone
COLUMNS = ("layer", "kept", "reward")
UNITS = 128  # at least so many steps has the widest layer when a plan is solved


@dataclass(frozen=True)
class Profile:
    """Rewards with one layer cut and all others whole; `table` has layer, kept, reward.

    `fingerprint` names the reward they were measured with.
    """

    widths: tuple[int, ...]
    table: pd.DataFrame
    fingerprint: str = ""

    def loss(self, layer: int, kept: np.ndarray) -> np.ndarray:
        """Reward lost when `layer` alone keeps so many neurons; linear between measured widths."""
        rows = self.table[self.table["layer"] == layer].sort_values("kept")
        rewards = rows["reward"].to_numpy()
        return rewards[-1] - np.interp(kept, rows["kept"], rewards)

    def save(self, path: Path) -> None:
        """Write the table as Parquet, whole, with the fingerprint as a column."""
        with replacing(path) as tmp:
            self.table.assign(fingerprint=self.fingerprint).to_parquet(tmp, index=False)

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read what `save` wrote; LopError, naming file and column, when it cannot be one."""
        try:
            table = pd.read_parquet(path)
            _check_table(table)
        except (OSError, pa.ArrowException, LopError) as error:
            reason = getattr(error, "strerror", None) or error
            raise LopError(f"{path}: cannot read a profile: {reason}") from error
        widths = tuple(int(width) for width in table.groupby("layer")["kept"].max())
        return cls(widths, table[list(COLUMNS)], table["fingerprint"].iloc[0])

    def check_fits(self, widths: Sequence[int]) -> None:
        """Raise LopError unless it was measured on a model of these FFN widths."""
        if tuple(widths) != self.widths:
            raise LopError(
                f"profile of a model with FFN widths {list(self.widths)}, this one has "
                f"{list(widths)}"
            )


def _check_table(table: pd.DataFrame) -> None:
    """Raise LopError for a table that is no profile."""
    if missing := [name for name in (*COLUMNS, "fingerprint") if name not in table]:
        raise LopError(f"column {missing[0]!r} is missing")
    if table.empty:
        raise LopError("no rows")
    for name, least in (("layer", 0), ("kept", 1)):
        if not is_integer_dtype(table[name]) or not table[name].ge(least).all():
            raise LopError(f"column {name!r}: expected whole numbers from {least} on")
    if not is_numeric_dtype(table["reward"]) or not np.isfinite(table["reward"]).all():
        raise LopError("column 'reward': expected finite numbers")
    layers = sorted(table["layer"].unique())
    if layers != list(range(len(layers))):
        gap = next(i for i, layer in enumerate(layers) if i != layer)
        raise LopError(
            f"column 'layer': no row of layer {gap}, though there is one of {layers[-1]}"
        )
    if table.duplicated(["layer", "kept"]).any():
        row = int(np.flatnonzero(table.duplicated(["layer", "kept"]))[0]) + 1
        raise LopError(f"row {row}: its layer and kept are there already")
    names = table["fingerprint"].unique()
    if len(names) > 1 or not isinstance(names[0], str):
        raise LopError("column 'fingerprint': expected one text in all rows")


def profile(
    reward: RewardOf,
    widths: Sequence[int],
    shares: Sequence[float] = SHARES,
    min_keep: float = MIN_KEEP,
    layers: Sequence[int] | None = None,
) -> Profile:
    """Measure every layer (or only `layers`) with each of `shares` removed, all others whole.

    The most that a layer may lose is measured too. That is about len(widths) · len(shares) plans,
    of which a `lop.reward.Reward` runs only the layers from the cut one on.
    """
    dense, low = tuple(widths), min_kept(widths, min_keep)
    cuts = [
        (layer, kept)
        for layer in (range(len(dense)) if layers is None else layers)
        for kept in _grid(dense[layer], int(low[layer]), shares)
    ]
    below = getattr(reward, "dense_below", lambda layer: nullcontext())
    rewards = []
    for layer, of in groupby(progress(cuts, "profile", len(cuts), "plan"), key=itemgetter(0)):
        with below(layer):
            for _, kept in of:
                rewards.append(reward(Plan(dense, (*dense[:layer], kept, *dense[layer + 1 :]))))
    table = pd.DataFrame(cuts, columns=["layer", "kept"]).assign(reward=rewards)
    return Profile(dense, table, getattr(reward, "fingerprint", ""))


def _grid(width: int, low: int, shares: Sequence[float]) -> list[int]:
    """The widths to measure, ascending: the least, what `shares` leave, and all."""
    return sorted({low, width, *(max(low, width - round(share * width)) for share in shares)})


def solve(measured: Profile, target: float, min_keep: float = MIN_KEEP) -> Plan:
    """The plan at `target` whose layers' losses have the least sum, by dynamic programming.

    Layers less than 2 · `UNITS` wide are solved neuron by neuron. Wider ones are cut in units of
    width / UNITS; what is left of the budget, less than a unit a layer, is spread evenly.
    """
    widths = measured.widths
    check_ratio(widths, target, min_keep)
    unit = max(1, max(widths) // UNITS)
    low = min_kept(widths, min_keep)
    rooms = [(width - least) // unit for width, least in zip(widths, low, strict=True)]
    units = min((budget(widths, target) - int(low.sum())) // unit, sum(rooms))
    best = np.zeros(1)  # best[u]: least loss of the layers so far with u units above their minimum
    choices = []
    for layer, room in enumerate(rooms):
        losses = measured.loss(layer, low[layer] + unit * np.arange(room + 1))
        best, choice = _add_layer(best, losses, units)
        choices.append(choice)
    kept, left = [], units
    for layer in reversed(range(len(widths))):
        taken = int(choices[layer][left])
        kept.append(int(low[layer]) + unit * taken)
        left -= taken
    ratios = [1 - k / d for k, d in zip(reversed(kept), widths, strict=True)]
    return Plan.from_ratios(ratios, widths, target, min_keep)


def _add_layer(best: np.ndarray, losses: np.ndarray, units: int) -> tuple[np.ndarray, np.ndarray]:
    """One step of the knapsack: the least loss for each number of units, and the layer's share."""
    size = min(len(best) + len(losses) - 1, units + 1)
    total, choice = np.full(size, np.inf), np.zeros(size, dtype=int)
    for taken, loss in enumerate(losses[:size]):
        end = min(size, taken + len(best))
        candidate = best[: end - taken] + loss
        better = candidate < total[taken:end]
        total[taken:end][better] = candidate[better]
        choice[taken:end][better] = taken
    return total, choice


def knapsack(
    reward: RewardOf,
    root: Plan,
    simulations: int,
    rng: Any,
    shares: Sequence[float] = SHARES,
    min_keep: float = MIN_KEEP,
) -> Iterator[Evaluated]:
    """The solved plan at the root's budget; its simulation number is what the profile cost.

    `reward` remembers plans, so a second target costs no profile of its own.
    """
    measured = profile(reward, root.widths, shares, min_keep)
    plan = solve(measured, root.ratio, min_keep)
    cost = len(measured.table) - len(root.widths) + 1  # the dense model was asked once
    yield Evaluated(plan, reward(plan), simulation=cost, depth=0)


def beginning(kind: str, path: Path | None) -> Profile | None:
    """What is needed for plans of this kind to begin with: nothing if uniform, else a profile."""
    if kind not in ("uniform", "knapsack"):
        raise LopError(f"plans to begin with {kind!r}: expected uniform or knapsack")
    if kind == "uniform":
        return None
    if path is None:
        raise LopError("to begin with the knapsack's plans, give a profile")
    return Profile.load(path)
