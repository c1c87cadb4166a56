"""A plan says how many FFN neurons each layer keeps; this is the only place where budgets are met.

Everything that proposes layer-wise ratios (searchers, predictors, baselines) comes through
`Plan.from_ratios`, so every plan in lop is exact to the neuron.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lop.errors import LopError

MIN_KEEP = (
    0.1  # share of its neurons that every layer keeps (the paper clips keep ratios to [0.1, 1])
)


def budget(widths: Sequence[int], ratio: float) -> int:
    """Neurons a model with FFN `widths` keeps at global pruning `ratio`: Σd − round(b·Σd)."""
    total = sum(widths)
    return total - round(ratio * total)


def min_kept(widths: Sequence[int], min_keep: float = MIN_KEEP) -> np.ndarray:
    """The fewest neurons each layer may keep, shape (L,); at least one."""
    return np.maximum(1, np.floor(np.asarray(widths) * min_keep + 1e-9)).astype(int)


def max_ratio(widths: Sequence[int], min_keep: float = MIN_KEEP) -> float:
    """The largest global pruning ratio that leaves every layer its minimum."""
    return 1 - float(min_kept(widths, min_keep).sum()) / sum(widths)


def check_ratio(widths: Sequence[int], ratio: float, min_keep: float = MIN_KEEP) -> None:
    """Raise LopError, naming the reachable range, when no plan can meet `ratio`."""
    reachable = budget(widths, ratio) >= min_kept(widths, min_keep).sum() if ratio < 1 else False
    if not (0 <= ratio and reachable):
        top = np.floor(max_ratio(widths, min_keep) * 1e4) / 1e4
        raise LopError(
            f"pruning ratio {ratio:g} cannot be met: this model reaches 0 to {top:g} "
            f"(each layer keeps at least {min_keep:.0%} of its FFN neurons, rounded down)"
        )


@dataclass(frozen=True)
class Plan:
    """How many of its `widths[l]` FFN neurons each layer l keeps: `kept[l]`."""

    widths: tuple[int, ...]
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.kept):
            raise LopError(f"plan has {len(self.kept)} layers, the model has {len(self.widths)}")
        if any(not 0 <= k <= d for k, d in zip(self.kept, self.widths, strict=True)):
            raise LopError(f"plan keeps {self.kept} of {self.widths}: expected none to all of each")

    @classmethod
    def uniform(cls, widths: Sequence[int], ratio: float, min_keep: float = MIN_KEEP) -> Plan:
        """The same ratio in every layer, to the neuron on the budget."""
        return cls.from_ratios([ratio] * len(widths), widths, ratio, min_keep)

    @classmethod
    def from_ratios(
        cls,
        ratios: Iterable[float],
        widths: Sequence[int],
        target: float,
        min_keep: float = MIN_KEEP,
    ) -> Plan:
        """The plan nearest to layer-wise pruning `ratios` that meets the global `target` exactly.

        Adds one common shift to all ratios, clipped to each layer's bounds (for equal widths the
        Euclidean projection onto the budget), then rounds by largest remainder.

        Raises LopError when `target` is out of reach or `ratios` does not fit the model.
        """
        d = np.asarray(widths, dtype=float)
        theta = np.asarray(list(ratios), dtype=float)
        check_ratio(widths, target, min_keep)
        if theta.shape != d.shape:
            raise LopError(f"got {theta.size} layer-wise ratios for a model with {d.size} layers")
        if not np.isfinite(theta).all():
            raise LopError(f"layer-wise ratios must be finite numbers, got {theta.tolist()}")
        low, total = min_kept(widths, min_keep), budget(widths, target)
        keep = shift_to_sum((1 - theta) * d, d, low, total)
        return cls(tuple(int(x) for x in widths), tuple(_round_to_sum(keep, low, d, total)))

    def rounded(self, multiple: int) -> Plan:
        """The nearest plan on the same budget with widths that are multiples, as GPUs like them.

        One layer takes what is left over where the budget itself is no multiple.

        Raises LopError when the layers are too narrow for that.
        """
        if multiple == 1:
            return self
        total, d, k = sum(self.kept), np.asarray(self.widths), np.asarray(self.kept)
        low, high = -(-min_kept(d.tolist()) // multiple), (d // multiple).astype(float)
        units, rest = divmod(total, multiple)
        if low.sum() <= units <= high.sum():
            kept = multiple * np.array(_round_to_sum(k / multiple, low, high, units))
            widest = int(np.argmax(d - kept))
            kept[widest] += rest
            if kept[widest] <= d[widest]:
                return Plan(self.widths, tuple(int(n) for n in kept))
        raise LopError(
            f"{total} of {sum(d)} neurons cannot be kept in multiples of {multiple}: the layers "
            f"have {min(d)} to {max(d)}; expected a smaller multiple"
        )

    @property
    def ratios(self) -> tuple[float, ...]:
        """Layer-wise pruning ratios θ, share removed."""
        return tuple(1 - k / d for k, d in zip(self.kept, self.widths, strict=True))

    @property
    def ratio(self) -> float:
        """Global pruning ratio over all FFN neurons."""
        return 1 - sum(self.kept) / sum(self.widths)


def written(ratio: float) -> str:
    """A ratio as it stands in names: short where that is exact, so that no two share one."""
    short = f"{ratio:g}"
    return short if float(short) == ratio else repr(float(ratio))


def per_cent(ratio: float) -> str:
    """A ratio as a page shows it: `20 %`, with as many digits as tell it from its neighbours."""
    return f"{100 * ratio:.10g} %"


def checkpoint_name(method: str, ratio: float) -> str:
    """What the checkpoint of a method at a ratio is called, wherever it is named."""
    return f"{method}-{written(ratio)}"


def check_once(kind: str, values: Sequence[object]) -> None:
    """Raise LopError where one of `values`, each a `kind`, is given twice."""
    if twice := [value for i, value in enumerate(values) if value in values[:i]]:
        raise LopError(f"{kind} {twice[0]!r} is named twice")


def shift_to_sum(keep: np.ndarray, high: np.ndarray, low: np.ndarray, total: int) -> np.ndarray:
    """Find s with Σ clip(keep + s·high, low, high) = total, and return the clip.

    The sum is linear in s between the shifts at which a layer meets a bound.
    """
    shifts = np.sort(np.concatenate([(low - keep) / high, 1 - keep / high]))
    sums = np.clip(keep + shifts[:, None] * high, low, high).sum(1)
    return np.clip(keep + np.interp(total, sums, shifts) * high, low, high)


def _round_to_sum(keep: np.ndarray, low: np.ndarray, high: np.ndarray, total: int) -> list[int]:
    """Round each entry down or up so that they sum to `total`, largest remainders up first."""
    kept = np.clip(np.floor(keep + 1e-6).astype(int), low, high.astype(int))
    by_remainder = np.argsort(kept - keep, kind="stable")
    while (missing := total - kept.sum()) != 0:
        step = 1 if missing > 0 else -1
        order = by_remainder if step > 0 else by_remainder[::-1]
        movable = [i for i in order if low[i] <= kept[i] + step <= high[i]]
        for i in movable[: abs(missing)]:
            kept[i] += step
    return [int(k) for k in kept]
