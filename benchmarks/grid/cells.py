"""The measurements of a plan: whether each test sample is answered right, and its
log-likelihood."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.grid.draw import Draw
from benchmarks.grid.scale import Ranking, Row
from lop.files import read_json, replacing
from lop.models.fingerprints import digest
from lop.plan import Plan
from lop.workers import in_processes

MODULES = ["benchmarks.grid.cells"]


@dataclass(frozen=True)
class Result:
    """Of each test sample, (N,) each: 1 where greedy generation would answer it right, the
    log-likelihood of its answer or text, and the tokens that this is of."""

    correct: np.ndarray
    loglik: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Cell:
    """A plan with a ranking, in one draw; rows that come to the same share it."""

    draw: Draw
    ranking: Ranking
    plan: Plan

    @property
    def path(self) -> Path:
        """The file of its result, named after what was kept."""
        name = f"{self.ranking.name}-{digest(self.plan.kept)}.json"
        return self.draw.folder / "cells" / name

    def result(self) -> Result:
        """What was measured."""
        found = read_json(self.path)
        return Result(*(np.array(found[name]) for name in ("correct", "loglik", "tokens")))


def dense(draw: Draw) -> Cell:
    """The model as it came."""
    return Cell(draw, Ranking("magnitude", False), draw.scale.space.dense)


def cell(draw: Draw, row: Row, ratio: float) -> Cell:
    """The cell of a row at a ratio."""
    return Cell(draw, row.ranking or draw.chosen, draw.plan(row, ratio))


def measure(cells: Sequence[Cell], workers: int) -> None:
    """Write the missing results."""
    missing = {cell.path: cell for cell in cells if not cell.path.exists()}
    # a process keeps the model that it made last, as long as the ranking is the same
    ordered = sorted(missing.values(), key=lambda cell: (cell.ranking, cell.path))
    in_processes(workers, "test", MODULES)(_measure, [(cell,) for cell in ordered])


def _measure(cell: Cell) -> None:
    with cell.draw.reward("test", cell.ranking, "loglik") as reward:
        correct, loglik = reward.per_sample(cell.plan)
    (part,) = reward.parts
    owners = torch.cat([batch.owners for batch in part.batches])
    tokens = torch.bincount(owners.cpu(), minlength=len(loglik))
    result = {
        "kept": cell.plan.kept,
        "correct": correct.tolist(),
        "loglik": loglik.tolist(),
        "tokens": tokens.tolist(),
    }
    cell.path.parent.mkdir(exist_ok=True)
    with replacing(cell.path) as tmp:
        tmp.write_text(json.dumps(result) + "\n")
