"""Attention and FFNs pruned together against FFNs alone: `python -m benchmarks.scopes`.

Both at as many parameters less of the whole model, for both models, over draws of samples and
seeds. It can be stopped and goes on from where it was; `--model reference` computes one of them,
and `--without-search` compares the knapsack's plans and the baselines, in a third of the time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common import RESULTS, origin
from benchmarks.full.scale import Questions
from benchmarks.grid import cells, progress, steps
from benchmarks.grid.cells import Result
from benchmarks.grid.draw import Draw
from benchmarks.grid.figures import difference, perplexity, rate
from benchmarks.grid.scale import LOP, Row, Scale
from benchmarks.real.scale import Texts
from lop.errors import LopError
from lop.evaluation.comparison import TITLES, bold, markdown
from lop.files import replacing
from lop.plan import per_cent

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


def figure(name: str, result: Result) -> tuple[np.ndarray, np.ndarray]:
    """What is summed and by how much it is divided: right answers, or nats of text lost; (N,)."""
    if name == "real":
        return -result.loglik, result.tokens
    return result.correct, np.ones(len(result.correct))


def values(compared: Compared) -> pd.DataFrame:
    """A row a scope, method and ratio over all draws: accuracy, or perplexity."""
    draws, rows = compared.draws(), []
    mean = perplexity if compared.name == "real" else rate
    for scope, scale in compared.scales.items():
        whole = scale.source.parameters
        for row in compared.rows():
            for ratio, own in compared.at[scope].items():
                of = [cells.cell(draw[scope], row, own) for draw in draws]
                parts = [(*figure(compared.name, c.result()), c.draw.asked()[0]) for c in of]
                value, error = mean(*map(np.concatenate, zip(*parts, strict=True)))
                gone = np.mean([c.plan.space.total - c.plan.parameters for c in of])
                method = row.method if row.ranking is None else f"{row.method} {row.ranking.name}"
                rows.append((compared.name, scope, method, ratio, gone / whole, value, error))
    columns = ["model", "scope", "method", "ratio", "reduction", "value", "stderr"]
    return pd.DataFrame(rows, columns=columns)


def gaps(compared: Compared) -> Iterator[tuple[float, float, float]]:
    """By ratio: a method's joint plans minus its plans of FFNs alone, and the standard error."""
    for ratio, own in compared.at["ffn"].items():
        pairs: list[list[np.ndarray]] = [[], [], [], []]
        for draw in compared.draws():
            joint = cells.cell(draw[JOINT], compared.ours, ratio).result()
            alone = cells.cell(draw["ffn"], compared.ours, own).result()
            ours, each = figure(compared.name, joint)
            theirs, _ = figure(compared.name, alone)
            for place, part in zip(
                pairs, (ours, theirs, each, draw[JOINT].asked()[0]), strict=True
            ):
                place.append(part)
        yield ratio, *difference(*pairs)


def text(found: pd.DataFrame, compared: Sequence[Compared]) -> str:
    """The page as Markdown."""
    parts = [section(found[found["model"] == each.name], each) for each in compared]
    return f"""# Attention and layers too

{origin()}

Attention's heads and FFN neurons pruned together (`space.scope: {JOINT}`) against FFNs alone
(`ffn`), at equal parameters of the whole model. Both see the same samples, and search, predictor
and score are lop's own in each. A ratio is a share of what can be cut of both together.

{chr(10).join(parts)}
[scopes.csv](scopes.csv)
"""


def section(found: pd.DataFrame, compared: Compared) -> str:
    """One model: its values, and how far apart the scopes are."""
    is_text = compared.name == "real"
    unit = "Perplexity: less is better" if is_text else "Accuracy in per cent: more is better"
    share = 1 if is_text else 100
    rows = [["scope", "method", *map(per_cent, RATIOS)], ["---"] * (2 + len(RATIOS))]
    whole = found[found["scope"] == JOINT].groupby("ratio")["reduction"].mean()
    rows.append(["", "of the whole model", *(f"{whole[r]:.1%}" for r in RATIOS)])
    for (scope, method), of in found.groupby(["scope", "method"], sort=False):
        by = of.set_index("ratio")
        both = share * by[["value", "stderr"]]
        shown = {r: f"{value:.1f} ± {error:.1f}" for r, (value, error) in both.T.items()}
        cell = [shown.get(r, "–") for r in RATIOS]
        name, *ranking = str(method).split()
        rows.append([f"`{scope}`", " ".join([TITLES.get(name, name), *ranking]), *cell])
    ours = TITLES[compared.ours.method]
    what = "nats a token, less is better" if is_text else "points, more is better"
    told = ", ".join(
        f"{per_cent(ratio)}: "
        + bold(f"{share * mean:+.3f} ± {share * error:.3f}", abs(mean) > 2 * error)
        for ratio, mean, error in gaps(compared)
    )
    return f"""## The {"real decoder" if is_text else "reference model"}

{unit}. Draws of samples and seeds: {len(compared.draws())}. Standard errors are by
{"document" if is_text else "picture"}.

{markdown(rows)}

{ours} with attention minus the same with FFNs alone, in {what}; bold is
beyond two standard errors: {told}.
"""


def main() -> None:
    """Compute what is not there yet, and write page and CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, action="append", help="only this one")
    parser.add_argument("--draws", type=int, default=3, help="of samples and seeds")
    parser.add_argument("--without-search", action="store_true", help="no LOP: the knapsack's")
    parser.add_argument("--page", action="store_true", help="only the page, of what is there")
    args = parser.parse_args()
    try:
        names = args.model or list(MODELS)
        for name in names if not args.page else ():
            MODELS[name].ready()
        searched = not args.without_search
        for name in names if not args.page else ():
            for step in Compared.of(name, args.draws, searched).steps():
                progress.run([step])
        # of each model what tells most
        every = [[Compared.of(name, args.draws, of) for of in (True, False)] for name in names]
        there = [of for each in every if (of := next((e for e in each if e.draws()), None))]
        if not there:
            raise LopError("no draw has been judged yet")
        found = pd.concat([values(each) for each in there])
        with replacing(RESULTS / "scopes.csv") as tmp:
            found.to_csv(tmp, index=False, float_format="%.5f")
        with replacing(RESULTS / "scopes.md") as tmp:
            tmp.write_text(text(found, there))
        print(RESULTS / "scopes.md")
    except LopError as error:
        sys.exit(f"scopes: {error}")


if __name__ == "__main__":
    main()
