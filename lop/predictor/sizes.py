"""Predicts the plan of units and bits for any size.

The knapsack of `lop.joint` gives a plan for each size, as if the losses of sites added up. The
network learns how far the better plans that a search found are from it: for each site the share of
units, and the share of bits, that are removed besides. Before training that is zero, and the plan
is the knapsack's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pandas as pd
import torch
from pydantic import ConfigDict, Field

from lop.errors import LopError
from lop.files import Kind
from lop.joint import Choices
from lop.plan import Plan, Space
from lop.predictor import Share
from lop.predictor.files import Trained, check_directory, with_weights
from lop.predictor.training import fit
from lop.predictor.transformer import PlanTransformer
from lop.typed import read_typed

Fewer = Annotated[int, Field(gt=0, le=16)]


@dataclass(frozen=True)
class SizeConfig:
    """The model, the bits and the sizes that a size predictor was trained for, and its network's
    shape."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    space: Space
    model_fingerprint: str
    bits: tuple[Fewer, ...]  # to choose from, ascending
    group: Annotated[int, Field(gt=0)]  # weights that share a scale
    others: tuple[str, ...]  # quantized besides the sites
    smallest: Share  # of the dense model's bytes that was searched
    hidden: Annotated[int, Field(gt=0, le=8192)] = 128
    depth: Annotated[int, Field(gt=0, le=64)] = 2
    heads: Annotated[int, Field(gt=0, le=1024)] = 4


SIZE_PREDICTOR = Kind(
    "a predictor of units and bits",
    ("config.json", "model.safetensors"),
    frozenset({"model_fingerprint", "bits", "group", "smallest"}),
)


class SizePredictor(Trained):
    """A trained network, and the model that it was trained for."""

    KIND = SIZE_PREDICTOR
    config: SizeConfig
    network: PlanTransformer

    def __init__(self, config: SizeConfig) -> None:
        self.config = config
        of_bits = tuple(f"bits of {kind}" for kind in config.space.kinds)
        kinds = (*config.space.kinds, *of_bits, *config.others)
        self.network = PlanTransformer(kinds, config.hidden, config.depth, config.heads).eval()
        self.network.base.zero_()

    @cached_property
    def _exact(self) -> PlanTransformer:
        return copy.deepcopy(self.network).double().eval()

    def plan(self, choices: Choices, amount: float) -> Plan:
        """The plan whose checkpoint has at most `amount` bytes of weights.

        Raises LopError for choices of another model or of other bits than it was trained with, and
        for a size below the smallest that was searched.
        """
        self._check_fits(choices)
        dense = choices.sizes.of(choices.space.dense)
        share = min(1.0, amount / dense)
        if share < self.config.smallest:
            raise LopError(
                f"size of {amount:,.0f}: expected at least {self.config.smallest * dense:,.0f}, "
                "the smallest that this predictor was trained on (or method knapsack)"
            )
        start = choices.solve(amount)
        budget = torch.tensor([1 - share], dtype=torch.float64)
        moved = self._exact.generate(budget)[0].numpy()
        return choices.plan(
            choices.near(choices.removed(choices.plan(start)) + moved, amount, start)
        )

    def _check_fits(self, choices: Choices) -> None:
        config = self.config
        if not config.space.fits(choices.space):
            raise LopError(
                f"predictor trained for a model with units {list(config.space.units)}, this model "
                f"has {list(choices.space.units)}"
            )
        trained = {"bits": config.bits, "group": config.group, "others": config.others}
        asked = (choices.bits, choices.sizes.group, tuple(choices.others))
        for (name, of), given in zip(trained.items(), asked, strict=True):
            if of != given:
                raise LopError(f"{name} {given}: expected {of}, which this predictor learned")

    @classmethod
    def from_pretrained(cls, path: str | Path) -> SizePredictor:
        """Read the directory that `save_pretrained` wrote; LopError if it is missing or broken."""
        path = Path(path)
        check_directory(path)
        config = read_typed(SizeConfig, path / "config.json")
        return with_weights(path, lambda: cls(config))


def train(
    samples: pd.DataFrame,
    config: SizeConfig,
    seed: int,
    **options: Any,
) -> SizePredictor:
    """Fit a predictor of units and bits to `samples`, a row a size and plan.

    Columns: target (share of the dense bytes that is removed), plan (how far from the knapsack's,
    as `Choices.removed` counts), weight (in the loss). `options` are those of `fit`.
    """
    torch.manual_seed(seed)
    predictor = SizePredictor(config)
    fit(predictor.network.train(), samples, seed, **options)
    return predictor
