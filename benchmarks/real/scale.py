"""How much of the real decoder's table is computed, and which of its rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path

from benchmarks.real.model import MODEL
from benchmarks.real.text import TEXT
from lop import choice, importance, reward, search
from lop.models.fingerprints import digest
from lop.models.stored import Stored

RUNS = Path("data/real/runs")
PURPOSES = ("calibration", "reward", "test")
OURS = ("lop", "knapsack", "uniform")  # the methods whose score and compensation may be any


@dataclass(frozen=True, order=True)
class Ranking:
    """Which neurons go, and whether their mean output is restored."""

    score: str
    compensate: bool

    @property
    def name(self) -> str:
        return self.score + ("-compensated" if self.compensate else "")


@dataclass(frozen=True)
class Scale:
    """What is computed of which model and text; sizes are in windows of text.

    `rivals` are the rankings that are searched and learned from besides the one that lop chooses,
    in the first draw.
    """

    model: Path = MODEL
    text: Path = TEXT  # a .jsonl file of documents a purpose
    runs: Path = RUNS
    draws: int = 3
    window: int = 64  # tokens
    calibration: int = 128
    reward: int = 48
    chosen_on: int = 24  # reward windows that score and compensation are chosen on
    kind: str = "kl_text"  # of reward
    test: int = 48
    ratios: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5)
    targets: tuple[float, ...] = (0.2, 0.35, 0.5)
    shares: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    simulations: int = 24
    rivals: tuple[Ranking, ...] = field(
        default=(
            Ranking("activation_l2", False),
            Ranking("flap", False),
            Ranking("flap", True),
        )
    )
    batch_size: int = 16
    workers: int = 2

    @cached_property
    def folder(self) -> Path:
        """Where a run of this scale lies: named after all that decides its numbers."""
        places = ("model", "text", "runs", "draws", "workers")
        sizes = {name: of for name, of in asdict(self).items() if name not in places}
        versions = [module.VERSION for module in (choice, importance, reward, search)]
        texts = [(self.text / f"{purpose}.jsonl").read_text() for purpose in PURPOSES]
        return self.runs / digest(sizes, versions, self.source.fingerprint, texts)

    @property
    def source(self) -> Stored:
        """The model, not loaded."""
        return _stored(self.model)


@cache  # and no property, which would go along to other processes
def _stored(path: Path) -> Stored:
    return Stored(path)


QUICK = Scale(
    draws=2,
    calibration=4,
    reward=4,
    chosen_on=2,
    test=4,
    ratios=(0.2, 0.5),
    targets=(0.2, 0.5),
    shares=(0.5,),
    simulations=2,
    rivals=(Ranking("flap", True),),
)


@dataclass(frozen=True)
class Row:
    """A line of the table: a method, and the ranking it has; None is the one that lop chooses."""

    method: str
    ranking: Ranking | None


FLAP = Row("flap", Ranking("flap", True))


def rows(scale: Scale) -> list[Row]:
    """What every draw is asked: what lop makes of a ratio, and its strongest rivals."""
    own = [Row(method, None) for method in OURS]
    paper = Row("uniform", Ranking("activation_l2", False))
    return [*own, paper, Row("wanda_sp", Ranking("wanda_sp", False)), FLAP]


def further(scale: Scale) -> list[Row]:
    """What the first draw is asked besides: other rankings, and what is far behind."""
    rivals = [Row(method, ranking) for ranking in scale.rivals for method in OURS]
    behind = [
        Row("uniform", Ranking("flap", False)),
        Row("flap", Ranking("flap", False)),
        Row("random", None),
        Row("magnitude", Ranking("magnitude", False)),
    ]
    return [row for row in dict.fromkeys([*rivals, *behind]) if row not in rows(scale)]
