"""The two models that defaults are measured on: the reference model, and a real decoder.

A draw of samples is made once, with scores, the choice that `auto` means, and a profile, in
data/benchmarks/<model>/draw-<n>. Benchmark samples are never used: nothing is chosen by them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.common import DATA, MODEL
from benchmarks.real import model, text, windows
from lop.choice import AUTO, chosen
from lop.models.checkpoint import load_processor
from lop.reward import Reward
from lop.search.knapsack import Profile
from lop.steps import scoring, searching
from lop.tasks.prepare import prepare_samples
from lop.tasks.samples import read_samples, write_samples

WINDOW = 64  # tokens of text a sample


@dataclass(frozen=True)
class Yardstick:
    """A model and how its samples are drawn: a table a purpose, of the sizes given, by seed."""

    name: str
    path: Path
    kind: str  # of reward that searches have
    sizes: Mapping[str, int]
    draw: Callable[[Mapping[str, int], int], dict[str, pd.DataFrame]]
    shares: tuple[float, ...]  # of the profile
    batch_size: int

    def folder(self, draw: int) -> Path:
        """Where a draw lies."""
        return DATA / self.name / f"draw-{draw}"

    def samples(self, draw: int, purpose: str) -> Path:
        """The samples of one purpose, drawn if they are not there yet."""
        path = self.folder(draw) / f"{purpose}.parquet"
        if not path.exists():
            self.folder(draw).mkdir(parents=True, exist_ok=True)
            for name, table in self.draw(self.sizes, draw).items():
                write_samples(table, self.folder(draw) / f"{name}.parquet")
        return path

    def scores(self, draw: int) -> Path:
        """The directory of scores, with what `auto` means."""
        out = self.folder(draw) / "importance"
        if not out.exists():
            places = out, str(self.path), self.samples(draw, "calibration"), self.batch_size
            scoring.importance(*places, self.samples(draw, "reward"), kind=self.kind)
        return out

    def profile(self, draw: int, workers: int) -> Profile:
        """The profile of the chosen score, measured if it is not there yet."""
        out = self.folder(draw) / "profile.parquet"
        if not out.exists():
            scores = self.scores(draw)
            score, compensate = chosen(scores, AUTO, AUTO)
            searching.profile(
                out,
                str(self.path),
                self.samples(draw, "reward"),
                scores,
                score,
                self.shares,
                compensate,
                self.kind,
                self.batch_size,
                workers,
            )
        return Profile.load(out)

    def reward(self, draw: int, purpose: str, kind: str | None = None, parts: int = 1) -> Reward:
        """The reward on the samples of one purpose, ranked as chosen."""
        scores = self.scores(draw)
        ranking = chosen(scores, AUTO, AUTO)
        samples = self.samples(draw, purpose)
        return searching.reward_of(
            str(self.path), samples, scores, *ranking, kind or self.kind, self.batch_size, parts
        )


def _questions(sizes: Mapping[str, int], seed: int) -> dict[str, pd.DataFrame]:
    return prepare_samples("reference", seed, {**sizes, "benchmark": 2})


def _texts(sizes: Mapping[str, int], seed: int) -> dict[str, pd.DataFrame]:
    """Windows of text, each purpose from documents of its own."""
    text.write()
    model.write()
    tokenizer = load_processor(model.MODEL)
    return {
        purpose: windows.draw(
            read_samples(text.TEXT / f"{purpose}.jsonl"), tokenizer, WINDOW, size, 10 * seed + i
        )
        for i, (purpose, size) in enumerate(sizes.items())
    }


REFERENCE = Yardstick(
    "reference",
    Path(MODEL),
    "loglik",
    {"calibration": 500, "reward": 1000, "validation": 1000},
    _questions,
    (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    40,
)
REAL = Yardstick(
    "real",
    model.MODEL,
    "kl_text",
    {"calibration": 128, "reward": 60, "validation": 60},
    _texts,
    (0.2, 0.4, 0.6, 0.8),
    16,
)
YARDSTICKS = {each.name: each for each in (REFERENCE, REAL)}
