"""The two scopes of a model, at as many parameters less of the whole: what is computed of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.full.scale import Questions
from benchmarks.grid import cells, progress, steps
from benchmarks.grid.cells import Cell, Result
from benchmarks.grid.draw import Draw
from benchmarks.grid.figures import difference, perplexity, rate
from benchmarks.grid.scale import LOP, Row, Scale
from benchmarks.real.scale import Texts

JOINT = "ffn+attention"
RATIOS = (0.2, 0.3, 0.5, 0.6, 0.7)  # of attention and FFNs together
TARGETS = {"ffn": (0.2, 0.4, 0.6), JOINT: (0.2, 0.35, 0.5)}  # and the largest ratio
MODELS: dict[str, Scale] = {
    "reference": Questions(runs=Path("data/full/scopes")),
    "real": Texts(runs=Path("data/real/scopes")),
}


@dataclass(frozen=True)
class Compared:
    """A model's scales by scope; `at` has a scope's ratio for each of `RATIOS` that it reaches."""

    name: str
    searched: bool  # else there is no predictor, and its row is left out
    scales: dict[str, Scale]
    at: dict[str, dict[float, float]]

    @classmethod
    def of(cls, name: str, draws: int, searched: bool = True) -> Compared:
        """Of a model of `MODELS`."""
        base = replace(MODELS[name], draws=draws, rivals=())
        spaces = {scope: base.source.space(scope) for scope in TARGETS}
        scales, at = {}, {}
        for scope, space in spaces.items():
            matched = {ratio: ratio * spaces[JOINT].total / space.total for ratio in RATIOS}
            at[scope] = {r: own for r, own in matched.items() if own <= space.max_ratio - 0.01}
            wanted = tuple(at[scope].values())
            targets = (*TARGETS[scope], max(wanted))
            scales[scope] = replace(base, scope=scope, ratios=wanted, targets=targets)
        return cls(name, searched, scales, at)

    def rows(self) -> list[Row]:
        """The methods that are compared."""
        return [row for row in self.scales[JOINT].rows() if self.searched or row != LOP]

    @property
    def ours(self) -> Row:
        """The method that tells the scopes apart."""
        return LOP if self.searched else Row("knapsack", None)

    def steps(self) -> Iterator[progress.Step]:
        """All that is computed, draw by draw."""
        for seed in range(self.scales[JOINT].draws):
            for scale in self.scales.values():
                draw = Draw(scale, seed)
                progress.run(list(steps.made(draw)), say=lambda _: None)
                if self.searched:
                    yield from steps.learned(draw, draw.chosen)
                else:
                    yield steps.profiled(draw, draw.chosen)
                yield steps.judged(draw, self.rows())

    def draws(self) -> list[dict[str, Draw]]:
        """Those of which both scopes are judged."""
        found = []
        for seed in range(self.scales[JOINT].draws):
            draw = {scope: Draw(scale, seed) for scope, scale in self.scales.items()}
            if all(of.judged(self.rows()).exists() for of in draw.values()):
                found.append(draw)
        return found

    @property
    def is_text(self) -> bool:
        """Whether a figure is of nats of text; else it is of right answers."""
        return self.name == "real"

    def level(self, of: Sequence[Cell]) -> tuple[float, float]:
        """Accuracy or perplexity over the draws of these cells, and its standard error."""
        parts = [(*self._figure(each.result()), each.draw.asked()[0]) for each in of]
        mean = perplexity if self.is_text else rate
        return mean(*map(np.concatenate, zip(*parts, strict=True)))

    def gap(self, joint: Sequence[Cell], alone: Sequence[Cell]) -> tuple[float, float]:
        """How far cells are from others of the same draws, and the standard error."""
        ours, each = zip(*(self._figure(of.result()) for of in joint), strict=True)
        theirs, _ = zip(*(self._figure(of.result()) for of in alone), strict=True)
        clusters = [of.draw.asked()[0] for of in joint]
        return difference(list(ours), list(theirs), list(each), clusters)

    def _figure(self, result: Result) -> tuple[np.ndarray, np.ndarray]:
        """What is summed and by how much it is divided: right answers, or nats of text lost; (N,)
        both."""
        if self.is_text:
            return -result.loglik, result.tokens
        return result.correct, np.ones(len(result.correct))


def values(compared: Compared) -> pd.DataFrame:
    """A row a scope, method and ratio over all draws: accuracy, or perplexity."""
    draws, rows = compared.draws(), []
    for scope, scale in compared.scales.items():
        whole = scale.source.parameters
        for row in compared.rows():
            for ratio, own in compared.at[scope].items():
                of = [cells.cell(draw[scope], row, own) for draw in draws]
                gone = np.mean([c.plan.space.total - c.plan.parameters for c in of])
                method = row.method if row.ranking is None else f"{row.method} {row.ranking.name}"
                figures = gone / whole, *compared.level(of)
                rows.append((compared.name, scope, method, ratio, *figures))
    columns = ["model", "scope", "method", "ratio", "reduction", "value", "stderr"]
    return pd.DataFrame(rows, columns=columns)


def gaps(compared: Compared) -> Iterator[tuple[float, float, float]]:
    """By ratio: a method's joint plans minus its plans of FFNs alone, and the standard error."""
    draws, ours = compared.draws(), compared.ours
    for ratio, own in compared.at["ffn"].items():
        joint = [cells.cell(draw[JOINT], ours, ratio) for draw in draws]
        yield ratio, *compared.gap(joint, [cells.cell(draw["ffn"], ours, own) for draw in draws])
