"""The measurements of a table's draws, and LOP's differences from every other row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.grid.draw import Draw
from benchmarks.grid.figures import difference
from benchmarks.grid.scale import LOP, Ranking, Row
from lop.evaluation.comparison import TITLES, bold, markdown
from lop.plan import per_cent
from lop.report.page import choice_table
from lop.reward.choice import FILE, read_choice

# of results, tokens and clusters (N,): a figure and its standard error, as in grid.figures
Figure = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[float, float]]
SCORES = {
    "activation_l2": "activation-L2",
    "flap": "FLAP's score",
    "wanda_sp": "Wanda's score",
    "magnitude": "magnitude",
}


@dataclass(frozen=True)
class Measured:
    """A draw's results by row and ratio, and those of the dense model; (N,) each.

    A figure is Σ results / Σ tokens. `clusters` (N,) names each sample's picture or document,
    `chosen` the ranking that lop chose.
    """

    cells: Mapping[tuple[Row, float], np.ndarray]
    dense: np.ndarray
    tokens: np.ndarray
    clusters: np.ndarray
    chosen: Ranking

    def of(self, some: np.ndarray) -> Measured:
        """The same of some samples (N,) alone."""
        cells = {key: values[some] for key, values in self.cells.items()}
        return Measured(
            cells, self.dense[some], self.tokens[some], self.clusters[some], self.chosen
        )

    def lines(self) -> Mapping[tuple[Row, float], np.ndarray]:
        """The dense model as a row of ratio 0, and all others."""
        return {(Row("dense", Ranking("", False)), 0.0): self.dense, **self.cells}


def pooled(draws: Sequence[Measured]) -> Measured:
    """All samples of all draws, for the rows that every draw has."""
    shared = [key for key in draws[0].cells if all(key in draw.cells for draw in draws)]
    choices = {draw.chosen for draw in draws}
    return Measured(
        {key: np.concatenate([draw.cells[key] for draw in draws]) for key in shared},
        np.concatenate([draw.dense for draw in draws]),
        np.concatenate([draw.tokens for draw in draws]),
        np.concatenate([draw.clusters for draw in draws]),
        choices.pop() if len(choices) == 1 else Ranking("auto", False),
    )


def figures(draws: Sequence[Measured], name: str, figure: Figure) -> pd.DataFrame:
    """A row a (method, ranking, ratio, draw), its figure as `name`; a draw is a number or `all`."""
    lines = []
    for number, draw in [("all", pooled(draws)), *((str(i), d) for i, d in enumerate(draws))]:
        for (row, ratio), results in draw.lines().items():
            ranking = row.ranking or draw.chosen
            value, error = figure(results, draw.tokens, draw.clusters)
            lines.append(
                {
                    "method": row.method,
                    "score": ranking.score,
                    "compensated": ranking.compensate,
                    "ratio": ratio,
                    name: value,
                    "stderr": error,
                    "draw": number,
                    "chosen": row.ranking is None,  # by lop, score and compensation
                }
            )
    return pd.DataFrame(lines)


def table(
    draw: Measured,
    figure: Figure,
    shown: Callable[[float, float], str],
    best_of: Callable[[list[float]], float],
) -> str:
    """Each row's figure as `shown` with its standard error, a column a ratio; the best in bold."""
    ratios = sorted({ratio for _, ratio in draw.cells})
    lines = [["FFN removed", *map(per_cent, ratios)], ["---"] * (1 + len(ratios))]
    found = {key: figure(of, draw.tokens, draw.clusters) for key, of in draw.cells.items()}
    best = {
        ratio: best_of([v for (_, r), (v, _) in found.items() if r == ratio]) for ratio in ratios
    }
    for row in dict.fromkeys(row for row, _ in draw.cells):
        cells = [bold(shown(*found[row, r]), found[row, r][0] == best[r]) for r in ratios]
        lines.append([title(row), *cells])
    return markdown(lines)


def comparisons(draws: Sequence[Measured]) -> pd.DataFrame:
    """A row a (ratio, baseline): LOP's figure minus the baseline's, over all draws of it.

    The score of what lop chose itself is `auto`.
    """
    lines = []
    for row, ratio in dict.fromkeys(key for draw in draws for key in draw.cells):
        of = [draw for draw in draws if (row, ratio) in draw.cells and row != LOP]
        if not of:
            continue
        found, error = difference(
            [draw.cells[LOP, ratio] for draw in of],
            [draw.cells[row, ratio] for draw in of],
            [draw.tokens for draw in of],
            [draw.clusters for draw in of],
        )
        score, compensated = _named(row)
        lines.append(
            {
                "ratio": ratio,
                "baseline": row.method,
                "score": score,
                "compensated": compensated,
                "difference": found,
                "stderr": error,
                "draws": len(of),
            }
        )
    return pd.DataFrame(lines).sort_values("ratio", kind="stable")


def compared(comparison: pd.DataFrame, draws: Sequence[Measured], unit: float = 1) -> str:
    """LOP against each other row, a column a ratio, in `unit`s; bold beyond two errors."""
    ratios, digits = sorted(set(comparison["ratio"])), 3 if unit == 1 else 2
    lines = [["LOP against", "draws", *map(per_cent, ratios)], ["---"] * (2 + len(ratios))]
    by = comparison.set_index(["baseline", "score", "compensated", "ratio"]).sort_index()
    for row in dict.fromkeys(row for draw in draws for row, _ in draw.cells if row != LOP):
        of = by.loc[(row.method, *_named(row))]
        shown = []
        for found, error in (of.loc[ratio, ["difference", "stderr"]] for ratio in ratios):
            text = f"{found / unit:+.{digits}f} ± {error / unit:.{digits}f}"
            shown.append(bold(text, abs(found) > 2 * error))
        lines.append([title(row), f"{of['draws'].iloc[0]:g}", *shown])
    return markdown(lines)


def choices(draws: Sequence[Measured], first: Draw) -> str:
    """What lop chose in each draw, and what it saw in the first, as Markdown."""
    names = [(SCORES[draw.chosen.score], draw.chosen.compensate) for draw in draws]
    words = ", ".join(name + (", compensated" if restored else "") for name, restored in names)
    found = read_choice(first.importance / FILE)
    return f"""`score: auto` and `compensate: auto` chose, draw by draw: {words}. They judge
uniform plans by {found.samples} reward samples (reward `{found.reward}`, higher is better); those
of the first draw:

{choice_table(found)}"""


def title(row: Row) -> str:
    """A row as the tables name it."""
    name = TITLES[row.method]
    if row.ranking is None:
        return f"{name}, as lop chooses"
    score = "" if row.method in ("flap", "wanda_sp", "magnitude") else SCORES[row.ranking.score]
    restored = "compensated" if row.ranking.compensate else ""
    return ", ".join(part for part in (name, score, restored) if part)


def _named(row: Row) -> tuple[str, str]:
    """Score and compensation as comparison.csv has them."""
    if row.ranking is None:
        return "auto", "auto"
    return row.ranking.score, str(row.ranking.compensate).lower()
