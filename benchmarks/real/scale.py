"""The real decoder and its windows of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.grid.scale import PURPOSES, Ranking, Scale
from benchmarks.real import windows
from benchmarks.real.model import MODEL
from benchmarks.real.model import write as write_model
from benchmarks.real.text import TEXT
from benchmarks.real.text import write as write_text
from lop.data.samples import read_samples
from lop.models.checkpoint import load_processor


@dataclass(frozen=True, kw_only=True)
class Texts(Scale):
    """A model of text; a sample is a window of that many tokens.

    `text` has a .jsonl file of documents a purpose.
    """

    model: Path = MODEL
    text: Path = TEXT
    runs: Path = Path("data/real/runs")
    window: int = 64  # tokens
    calibration: int = 128
    reward: int = 48
    chosen_on: int = 24
    kind: str = "kl_text"
    test: int = 48
    ratios: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5)
    targets: tuple[float, ...] = (0.2, 0.35, 0.5)
    shares: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    simulations: int = 24
    rivals: tuple[Ranking, ...] = (
        Ranking("activation_l2", False),
        Ranking("flap", False),
        Ranking("flap", True),
    )
    batch_size: int = 16

    def ready(self) -> None:
        """Text and model, as files."""
        write_text(self.text)
        write_model(self.model)

    def tables(self, seed: int) -> Mapping[str, pd.DataFrame]:
        """Windows of each purpose, from documents of its own."""
        tokenizer, found = load_processor(self.model), {}
        for purpose, count in self.sizes().items():
            documents = read_samples(self.text / f"{purpose}.jsonl")
            drawn_by = 1000 * seed + PURPOSES.index(purpose)
            found[purpose] = windows.draw(documents, tokenizer, self.window, count, drawn_by)
        return found

    def training(self, seed: int) -> pd.DataFrame:
        """Windows that recovery learns from, about as many as there are in the documents kept for
        validation, which nothing else of a scale without validation samples sees."""
        documents = read_samples(self.text / "validation.jsonl")
        return windows.draw(documents, load_processor(self.model), self.window, 640, seed)

    def sources(self) -> list[str]:
        """The texts."""
        return [(self.text / f"{purpose}.jsonl").read_text() for purpose in self.sizes()]


QUICK = Texts(
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
