"""The reference model and its questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.common import MODEL
from benchmarks.grid.scale import WEAK, Row, Scale
from lop.data.prepare import prepare_samples
from lop.settings import Params

SETTINGS = Params()
SPLITS = {
    "calibration": "calibration",
    "reward": "reward",
    "test": "benchmark",
    "validation": "validation",
}


@dataclass(frozen=True, kw_only=True)
class Questions(Scale):
    """Sizes and settings are those of params.yaml, where it has them."""

    model: Path = Path(MODEL)
    runs: Path = Path("data/full/runs")
    calibration: int = SETTINGS.prepare.calibration
    reward: int = SETTINGS.prepare.reward
    chosen_on: int = SETTINGS.importance.reward_samples
    kind: str = SETTINGS.search.reward
    test: int = 2000
    ratios: tuple[float, ...] = (0.2, 0.25, 0.3, 0.4, 0.5, 0.6)
    targets: tuple[float, ...] = (0.2, 0.3, 0.5, 0.6, 0.7)
    shares: tuple[float, ...] = tuple(SETTINGS.profile.shares)
    simulations: int = SETTINGS.search.settings[0].simulations
    batch_size: int = SETTINGS.search.batch_size

    def tables(self, seed: int) -> Mapping[str, pd.DataFrame]:
        """Samples that training held out, and for the test, questions of the test splits."""
        sizes = self.sizes()
        found = prepare_samples("reference", seed, {of: sizes.get(p) for p, of in SPLITS.items()})
        return {purpose: found[SPLITS[purpose]] for purpose in sizes}

    def rows(self) -> list[Row]:
        """Here no method is so far behind that a draw can do without it."""
        return [*super().rows(), *WEAK]


QUICK = Questions(
    draws=2,
    calibration=40,
    reward=20,
    chosen_on=20,
    test=40,
    ratios=(0.3, 0.5),
    targets=(0.3, 0.5),
    shares=(0.5,),
    simulations=2,
)
