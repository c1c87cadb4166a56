"""The same scopes at equal latency: the knapsack's plans that answer a request in as much time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.grid import cells
from benchmarks.grid.cells import Cell
from benchmarks.grid.draw import Draw
from benchmarks.grid.progress import Step
from benchmarks.grid.scale import Scale
from benchmarks.scopes.compared import JOINT, Compared
from benchmarks.speed import BATCHES
from lop.evaluation.latency import LatencyProfile, Request, measure, processor_name
from lop.files import content_digest
from lop.models.checkpoint import load
from lop.models.fingerprints import digest
from lop.plan import Plan
from lop.steps.pruning import Cutter

METHOD = "knapsack"  # which solves for a latency: no other does
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # of the dense model's latency
TIMED = 50  # what timing a model costs, in samples that are read


@dataclass(frozen=True)
class Timed:
    """A model's scopes, by the time that requests of one of `BATCHES` take."""

    compared: Compared
    batch: int

    @property
    def request(self) -> Request:
        """What is timed."""
        return BATCHES[self.batch]

    @property
    def scale(self) -> Scale:
        """The scale with all sites; where they are timed, FFNs alone are timed too."""
        return self.compared.scales[JOINT]

    @property
    def path(self) -> Path:
        """The latency profile of this model, request and machine."""
        of = digest(self.scale.source.fingerprint, asdict(self.request), processor_name())
        return self.scale.runs / f"latency-{of}.parquet"

    def time(self) -> None:
        """Time the model, on one thread."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            measure(load(self.scale.model), self.request).save(self.path)
        finally:
            torch.set_num_threads(threads)

    def reached(self, scope: str) -> list[float]:
        """Those of `SHARES` that a scope has plans for."""
        timed, space = LatencyProfile.load(self.path), self.scale.source.space(scope)
        least = timed.of(Plan(space, space.floors)) / timed.of(space.dense)
        return [share for share in SHARES if share >= least]

    def cells(self, draw: Draw) -> dict[float, Cell]:
        """By share of the dense model's latency: the plan of least loss within it."""
        ranking = draw.chosen
        cutter = Cutter(
            str(draw.scale.model),
            draw.importance,
            ranking.score,
            ranking.compensate,
            profile_path=draw.of(ranking, "profile.parquet"),
            latency_path=self.path,
            elsewhere=True,  # the page may be written with other threads
        )
        shares = self.reached(draw.scale.scope)
        plans = {share: cutter.meeting("latency", f"{share:g}x", METHOD)[1] for share in shares}
        return {share: Cell(draw, ranking, plan) for share, plan in plans.items()}

    def judged(self, draw: Draw) -> Path:
        """The file that says that all of a draw's plans have been measured."""
        return draw.folder / f"judged-{digest(content_digest(self.path), SHARES)}"

    def judge(self, draw: Draw) -> None:
        """Ask the test samples of a draw."""
        cells.measure(list(self.cells(draw).values()), draw.scale.workers)
        self.judged(draw).touch()

    def steps(self) -> Iterator[Step]:
        """All that is computed, of draws that are judged at equal parameters."""
        name = f"{self.compared.name}, {self.request.batch} at once"
        yield Step(f"{name}: latency", self.path, TIMED, self.time)
        for draws in self.compared.draws():
            for scope, draw in draws.items():
                label, cost = f"{name}: draw {draw.seed}, {scope}", len(SHARES) * draw.scale.test
                yield Step(label, self.judged(draw), cost, partial(self.judge, draw))

    @cached_property
    def draws(self) -> list[dict[str, dict[float, Cell]]]:
        """The cells of each scope in the draws of which both are judged, by share."""
        if not self.path.exists():
            return []
        there = self.compared.draws()
        whole = [of for of in there if all(self.judged(draw).exists() for draw in of.values())]
        return [{scope: self.cells(draw) for scope, draw in of.items()} for of in whole]

    def values(self) -> pd.DataFrame:
        """A row a scope and latency over all draws: accuracy, or perplexity."""
        draws, rows = self.draws, []
        for scope in self.compared.scales if draws else ():
            timed = LatencyProfile.load(self.path)
            for share in self.reached(scope):
                of = [draw[scope][share] for draw in draws]
                taken = np.mean([timed.of(cell.plan) for cell in of])
                name = self.compared.name, scope, METHOD, self.batch, f"{share:g}x"
                rows.append((*name, taken, *self.compared.level(of)))
        columns = ["model", "scope", "method", "batch", "latency_target", "predicted_ms"]
        return pd.DataFrame(rows, columns=[*columns, "value", "stderr"])

    def gaps(self) -> Iterator[tuple[float, float, float]]:
        """By share of the dense model's latency: joint plans minus those of FFNs alone, and the
        standard error."""
        draws = self.draws
        for share in self.reached("ffn") if draws else ():
            joint, alone = ([draw[scope][share] for draw in draws] for scope in (JOINT, "ffn"))
            yield share, *self.compared.gap(joint, alone)
