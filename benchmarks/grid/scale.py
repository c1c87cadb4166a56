"""The extent of a table: its model, samples and rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lop import importance, reward, search
from lop.models.fingerprints import digest
from lop.models.stored import Stored
from lop.plan import Space
from lop.reward import choice

# new ones go to the end: seeds of samples go by this order
PURPOSES = ("calibration", "reward", "test", "validation")
OURS = ("lop", "knapsack", "uniform")  # the methods whose score and compensation may be any


@dataclass(frozen=True, order=True)
class Ranking:
    """Which units go, and whether their mean output is restored."""

    score: str
    compensate: bool

    @property
    def name(self) -> str:
        return self.score + ("-compensated" if self.compensate else "")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A model, and what is computed of it; a subclass says how its samples are drawn.

    Sizes are in samples. A table has test samples; what defaults are chosen by has validation
    samples instead. `rivals` are the rankings that are searched and learned from besides the one
    that lop chooses, in the first draw.
    """

    model: Path
    runs: Path
    draws: int = 3
    calibration: int
    reward: int
    chosen_on: int  # reward samples that score and compensation are chosen on
    kind: str  # of reward
    scope: str = "ffn"
    test: int
    validation: int = 0
    ratios: tuple[float, ...]
    targets: tuple[float, ...]
    shares: tuple[float, ...]
    simulations: int
    rivals: tuple[Ranking, ...] = ()
    batch_size: int
    workers: int = 2

    def ready(self) -> None:
        """Put in place what samples are drawn from."""

    def tables(self, seed: int) -> Mapping[str, pd.DataFrame]:
        """The samples of a draw, a table for each of `sizes`."""
        raise NotImplementedError

    def sizes(self) -> dict[str, int]:
        """How many samples a draw has of each purpose that it has."""
        return {purpose: size for purpose in PURPOSES if (size := getattr(self, purpose))}

    def rows(self) -> list[Row]:
        """What every draw is asked: what lop makes of a ratio, and its strongest rivals."""
        own = [Row(method, None) for method in OURS]
        paper = Row("uniform", Ranking("activation_l2", False))
        return [*own, paper, Row("wanda_sp", Ranking("wanda_sp", False)), FLAP]

    def further(self) -> list[Row]:
        """What the first draw is asked besides: other rankings, and what is far behind."""
        rivals = [Row(method, ranking) for ranking in self.rivals for method in OURS]
        behind = [
            Row("uniform", Ranking("flap", False)),
            Row("flap", Ranking("flap", False)),
            *WEAK,
        ]
        return [row for row in dict.fromkeys([*rivals, *behind]) if row not in self.rows()]

    def sources(self) -> Any:
        """What the samples are drawn from, for the name of the folder."""
        return None

    @cached_property
    def folder(self) -> Path:
        """Where a run of this scale lies: named after all that decides its numbers."""
        places = ("model", "text", "runs", "draws", "workers")
        sizes = {name: of for name, of in asdict(self).items() if name not in places}
        if not self.validation:
            del sizes["validation"]  # as runs were named before there was one
        versions = [module.VERSION for module in (choice, importance, reward, search)]
        return self.runs / digest(sizes, versions, self.source.fingerprint, self.sources())

    @property
    def space(self) -> Space:
        """What is cut of the model."""
        return self.source.space(self.scope)

    @property
    def source(self) -> Stored:
        """The model, not loaded."""
        return _stored(self.model)


@cache  # and no property, which would go along to other processes
def _stored(path: Path) -> Stored:
    return Stored(path)


@dataclass(frozen=True)
class Row:
    """A line of the table: a method, and the ranking it has; None is the one that lop chooses."""

    method: str
    ranking: Ranking | None


LOP = Row("lop", None)
FLAP = Row("flap", Ranking("flap", True))
WEAK = [Row("random", None), Row("magnitude", Ranking("magnitude", False))]
