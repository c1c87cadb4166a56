"""One draw of samples and seeds: lop's own steps, from samples to a predictor, each done once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.grid.scale import Ranking, Row, Scale
from lop.data.samples import read_samples, write_samples
from lop.importance import load_all_scores
from lop.methods import Method, PlanInputs, method
from lop.models.fingerprints import digest
from lop.plan import Plan
from lop.predictor import Predictor
from lop.profile import Profile
from lop.reward import Reward
from lop.reward.choice import AUTO, chosen
from lop.settings import Params
from lop.steps import scoring, searching, training


@dataclass(frozen=True)
class Draw:
    """Where the files of a draw lie, and what makes them."""

    scale: Scale
    seed: int

    @property
    def folder(self) -> Path:
        return self.scale.folder / f"draw-{self.seed}"

    @property
    def importance(self) -> Path:
        return self.folder / "importance"

    def samples(self, purpose: str) -> Path:
        return self.folder / f"{purpose}.parquet"

    def of(self, ranking: Ranking, name: str) -> Path:
        """What searching with a ranking leaves: a profile, search samples, a predictor."""
        return self.folder / ranking.name / name

    def judged(self, rows: Sequence[Row]) -> Path:
        """The file that says that all of these rows have been measured."""
        return self.folder / f"judged-{digest(*map(repr, rows))}"

    def prepare(self) -> None:
        """Draw the samples of each purpose."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for purpose, table in self.scale.tables(self.seed).items():
            write_samples(table, self.samples(purpose))

    def asked(self, purpose: str = "test") -> tuple[np.ndarray, np.ndarray]:
        """Picture or document, and id, of each sample of a purpose; (N,) both."""
        table = read_samples(self.samples(purpose))
        return table["image_id"].to_numpy(str), table["id"].to_numpy(str)

    def score(self) -> None:
        """Score the units, and choose the ranking."""
        scoring.importance(
            self.importance,
            str(self.scale.model),
            self.samples("calibration"),
            self.scale.batch_size,
            self.samples("reward"),
            reward_samples=self.scale.chosen_on,
            kind=self.scale.kind,
            scope=self.scale.scope,
        )

    @cached_property
    def chosen(self) -> Ranking:
        """The ranking that `auto` means here."""
        return Ranking(*chosen(self.importance, AUTO, AUTO))

    def reward(
        self, purpose: str, ranking: Ranking, kind: str | None = None, parts: int = 1
    ) -> Reward:
        """The reward on the samples of a purpose; of the scale's kind where none is given."""
        return searching.reward_of(
            str(self.scale.model),
            self.samples(purpose),
            self.importance,
            ranking.score,
            ranking.compensate,
            kind or self.scale.kind,
            self.scale.batch_size,
            parts,
        )

    def place(self, ranking: Ranking) -> tuple[str, Path, Path, str]:
        """What lop's steps take: model, reward samples, scores, and which of them."""
        return str(self.scale.model), self.samples("reward"), self.importance, ranking.score

    def profile(self, ranking: Ranking) -> None:
        """Measure each site alone."""
        searching.profile(
            self.of(ranking, "profile.parquet"),
            *self.place(ranking),
            shares=self.scale.shares,
            compensate=ranking.compensate,
            reward=self.scale.kind,
            batch_size=self.scale.batch_size,
            workers=self.scale.workers,
        )

    def search(self, ranking: Ranking) -> None:
        """Search every target from the knapsack's plan, with lop's own settings."""
        (settings, *_) = Params().search.settings
        searching.search(
            self.of(ranking, "search"),
            *self.place(ranking),
            targets=self.scale.targets,
            seeds=[self.seed],
            settings=settings.model_dump(exclude_unset=True)
            | {"simulations": self.scale.simulations},
            spacing=Params().search.spacing,
            start="knapsack",
            profile_path=self.of(ranking, "profile.parquet"),
            compensate=ranking.compensate,
            reward=self.scale.kind,
            batch_size=self.scale.batch_size,
            workers=self.scale.workers,
        )

    def train(self, ranking: Ranking) -> None:
        """Train the predictor, with lop's own settings."""
        chosen = Params().train
        training.train(
            self.of(ranking, "predictor"),
            self.of(ranking, "training"),
            self.of(ranking, "search"),
            self.importance / f"{ranking.score}.safetensors",
            self.seed,
            chosen.samples.model_dump(),
            chosen.network.model_dump(),
            chosen.fit_options.model_dump(),
            base="knapsack",
            profile_path=self.of(ranking, "profile.parquet"),
        )

    def method(self, row: Row) -> Method:
        """A row's method, with what was searched and learned with its ranking."""
        ranking = row.ranking or self.chosen
        predictor = profile = None
        if row.method == "lop":
            predictor = Predictor.from_pretrained(self.of(ranking, "predictor"))
        if row.method == "knapsack":
            profile = Profile.load(self.of(ranking, "profile.parquet"))
        inputs = PlanInputs(ranking.score, ranking.compensate, predictor, profile)
        found = method(row.method, inputs)
        return Method(found.score, found.plan, ranking.compensate)

    def plan(self, row: Row, ratio: float) -> Plan:
        """What a row keeps at a ratio."""
        source = self.scale.source
        scores = load_all_scores(self.importance, source.fingerprint)
        return self.method(row).plan(ratio, self.scale.space, scores)
