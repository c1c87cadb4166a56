"""Predicts a plan for any budget in milliseconds, with a small network trained on search
results."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, Field

from lop.errors import LopError
from lop.files import Kind
from lop.plan import Plan, Space
from lop.predictor.base import GRID, PlanNetwork
from lop.predictor.bilstm import PlanBiLSTM
from lop.predictor.files import Trained, check_directory, with_weights
from lop.predictor.mlp import PlanMLP
from lop.predictor.transformer import PlanTransformer
from lop.typed import read_typed

AT_ONCE = 8  # grid budgets in one batch of a predictor's network

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


@dataclass(frozen=True)
class PredictorConfig:
    """The model and range a predictor was trained for, and its network's shape. The bounds are
    checked when it is read."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    space: Space  # of the model
    model_fingerprint: str
    min_ratio: Share  # the range of searched targets
    max_ratio: Share
    kind: str = "transformer"  # one of NETWORKS
    hidden: Annotated[int, Field(gt=0, le=8192)] = 128
    depth: Annotated[int, Field(gt=0, le=64)] = 2
    heads: Annotated[int, Field(gt=0, le=1024)] = 4  # of the transformer
    base: str = "uniform"  # or knapsack: the plans it learned differences from; a record only


PREDICTOR = Kind(
    "a predictor",
    ("config.json", "model.safetensors"),
    frozenset({"model_fingerprint", "min_ratio", "max_ratio", "kind"}),
)

NETWORKS: Mapping[str, Callable[[PredictorConfig], PlanNetwork]] = {
    "transformer": lambda c: PlanTransformer(c.space.kinds, c.hidden, c.depth, c.heads),
    "bilstm": lambda c: PlanBiLSTM(c.space.kinds, c.hidden, c.depth),
    "mlp": lambda c: PlanMLP(c.space.kinds, c.hidden, c.depth),
}


class Predictor(Trained):
    """A trained network and the model it was trained for.

    >>> Predictor.from_pretrained("data/predictor").plan(0.37)
    """

    KIND = PREDICTOR
    config: PredictorConfig
    network: PlanNetwork

    def __init__(self, config: PredictorConfig) -> None:
        if config.kind not in NETWORKS:
            raise LopError(f"predictor kind {config.kind!r}: expected one of {', '.join(NETWORKS)}")
        self.config = config
        self.network = NETWORKS[config.kind](config).eval()
        self._blocks: dict[int, np.ndarray] = {}  # network outputs on the grid, as far as computed

    def plan(self, ratio: float, space: Space | None = None) -> Plan:
        """The plan for a global pruning ratio; it meets its budget.

        `space` may add floors or a multiple to the predictor's space. Raises LopError outside the
        range of searched ratios.
        """
        return self.plans([ratio], space)[0]

    def plans(self, ratios: Sequence[float], space: Space | None = None) -> list[Plan]:
        """A plan for each ratio: interpolated linearly between a grid of budgets, then adjusted to
        its budget.

        They are not nested: a site may keep more units at a higher ratio, because the best plans of
        two budgets are rarely nested.
        """
        for ratio in ratios:
            self.check_ratio(ratio)
        budgets = self._budgets
        space, found = space or self.config.space, []
        for ratio in ratios:
            at = min(int(np.searchsorted(budgets, ratio, side="right")), GRID - 1) - 1
            near = zip(self._output(at), self._output(at + 1), strict=True)
            predicted = [np.interp(ratio, budgets[at : at + 2], site) for site in near]
            found.append(Plan.from_ratios(predicted, space, ratio))
        return found

    @cached_property
    def _budgets(self) -> np.ndarray:
        """`GRID` budgets from the smallest to the largest ratio."""
        return np.linspace(self.config.min_ratio, self.config.max_ratio, GRID)

    def _output(self, number: int) -> np.ndarray:
        """The network's output for one of these budgets, (S,), in float64.

        It is computed in fixed blocks of `AT_ONCE` budgets: the first plan is fast, and no plan
        depends on earlier calls, not even by rounding.
        """
        block, row = divmod(number, AT_ONCE)
        if block not in self._blocks:
            budgets = self._budgets[block * AT_ONCE : (block + 1) * AT_ONCE]
            self._blocks[block] = self._exact.generate(torch.tensor(budgets)).numpy()
        return self._blocks[block][row]

    @cached_property
    def _exact(self) -> PlanNetwork:
        return copy.deepcopy(self.network).double().eval()

    def reaches(self, ratio: float) -> bool:
        """Whether a ratio is in the range of searched ratios."""
        return self.config.min_ratio <= ratio <= self.config.max_ratio

    def check_ratio(self, ratio: float) -> None:
        """Raise LopError outside the range of searched ratios."""
        low, high = self.config.min_ratio, self.config.max_ratio
        if not self.reaches(ratio):
            raise LopError(
                f"pruning ratio {ratio:g}: expected {low:g} to {high:g}, the range that this "
                "predictor was trained on"
            )

    def check_fits(self, space: Space, model_fingerprint: str, sibling: bool = False) -> None:
        """Raise LopError unless this predictor was trained for this model.

        With `sibling`, a model with the same sites and other weights (a fine-tuned one) is only a
        warning.
        """
        if not self.config.space.fits(space):
            raise LopError(
                f"predictor trained for a model with units {list(self.config.space.units)} "
                f"({self.config.space.scope}), this model has {list(space.units)} ({space.scope})"
            )
        if model_fingerprint != self.config.model_fingerprint:
            other = (
                f"predictor trained for model {self.config.model_fingerprint}, "
                f"this model is {model_fingerprint}"
            )
            if not sibling:
                raise LopError(
                    f"{other}: train a predictor for it (lop prune takes this one with --sibling)"
                )
            warnings.warn(other, stacklevel=2)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Predictor:
        """Read the directory that `save_pretrained` wrote; LopError if it is missing or
        incomplete."""
        path = Path(path)
        check_directory(path)
        config = read_typed(PredictorConfig, path / "config.json")

        def make() -> Predictor:
            _check(config)
            return cls(config)

        return with_weights(path, make)


def _check(config: PredictorConfig) -> None:
    """Raise LopError for an empty range of ratios, or one that no plan can meet."""
    low, high = config.min_ratio, config.max_ratio
    if low > high:
        raise LopError(f"min_ratio {low:g} is above max_ratio {high:g}")
    config.space.check_ratio(high)
