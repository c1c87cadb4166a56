"""The reference model and its questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.common import MODEL
from benchmarks.grid.scale import Scale
from lop.settings import Params
from lop.tasks.prepare import prepare_samples

SETTINGS = Params()


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
        sizes = {
            "calibration": self.calibration,
            "reward": self.reward,
            "validation": None,
            "benchmark": self.test,
        }
        found = prepare_samples("reference", seed, sizes)
        return {name: found[name] for name in ("calibration", "reward")} | {
            "test": found["benchmark"]
        }


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
