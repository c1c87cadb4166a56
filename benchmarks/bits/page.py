"""The page of units and bits, as Markdown, and its figures."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.bits.compared import BUDGETS, JOINT
from benchmarks.common import origin
from benchmarks.grid.figures import difference, perplexity, rate
from benchmarks.real.scale import Texts
from lop.evaluation.comparison import bold, markdown
from lop.plan import RECOVERED

TITLES = {
    "dense": "not pruned, bf16",
    "prune_uniform": "prune only, uniform",
    "int8_uniform": "8 bits, uniform widths",
    "int4_uniform": "4 bits, uniform widths",
    "prune": "prune only, knapsack",
    "int8": "8 bits, knapsack",
    "int4": "4 bits, knapsack",
    "joint_added": "joint, by the profile alone",
    JOINT: "joint",
}


def figure(name: str, of: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What is summed and by how much it is divided: right answers, or nats of text; (N,) both."""
    if name == "reference":
        return of["correct"].to_numpy(float), np.ones(len(of))
    return -of["loglik"].to_numpy(float), np.full(len(of), float(Texts().window))


def values(name: str, draws: list[pd.DataFrame], suffix: str = "") -> pd.DataFrame:
    """A row a method and budget over all draws: accuracy or perplexity, and how far behind
    `JOINT` it is."""
    rows = []
    for (method, budget), _ in draws[0].groupby(["method", "budget"], sort=False):
        each = [_at(draw, str(method), budget) for draw in draws]
        if not all(len(of) for of in each):
            continue
        parts = [(*figure(name, of), of["of"].to_numpy(str)) for of in each]
        mean = rate if name == "reference" else perplexity
        value, error = mean(*map(np.concatenate, zip(*parts, strict=True)))
        joint = [_at(draw, JOINT, budget) for draw in draws]
        gap = (np.nan, np.nan)
        if all(len(of) for of in joint):
            ours = [figure(name, of)[0] for of in joint]
            clusters = [of for _, _, of in parts]
            gap = difference(ours, [v for v, _, _ in parts], [n for _, n, _ in parts], clusters)
        share = float(np.mean([of["bytes_fraction"].iloc[0] for of in each]))
        rows.append((name, f"{method}{suffix}", budget, share, value, error, *gap))
    columns = ["model", "method", "budget", "bytes_fraction", "value", "stderr"]
    return pd.DataFrame(rows, columns=[*columns, "joint_ahead", "joint_ahead_error"])


def _at(draw: pd.DataFrame, method: str, budget: float) -> pd.DataFrame:
    return draw[(draw["method"] == method) & np.isclose(draw["budget"], budget)]


def section(name: str, found: pd.DataFrame, draws: str, apart: float) -> str:
    """One model: a row a method, a column a budget. `draws` says how many."""
    questions = name == "reference"
    unit, shared = ("Accuracy in per cent", "picture") if questions else ("Perplexity", "document")
    scale = 100 if questions else 1
    lines = [["method", *map(str, BUDGETS)], ["---"] * (1 + len(BUDGETS))]
    ahead = [["joint against", *map(str, BUDGETS)], lines[1]]
    dense = found[found["method"] == "dense"].iloc[0]
    smaller = found[~found["method"].str.startswith("dense")]
    for method, of in smaller.groupby("method", sort=False):
        cells, gaps = [], []
        for budget in BUDGETS:
            at = of[np.isclose(of["budget"], float(budget))]
            if at.empty:
                cells.append("–")
                gaps.append("–")
                continue
            row = at.iloc[0]
            cells.append(f"{scale * row['value']:.1f} ± {scale * row['stderr']:.1f}")
            mean, error = scale * row["joint_ahead"], scale * row["joint_ahead_error"]
            gaps.append(bold(f"{mean:+.2f} ± {error:.2f}", abs(mean) > 2 * error))
        base = str(method).removesuffix(RECOVERED)
        title = TITLES[base] + (", recovered" if base != method else "")
        lines.append([title, *cells])
        if base != JOINT:
            ahead.append([title, *gaps])
    points = "points, more is better" if questions else "nats a token, less is better"
    return f"""## The {"reference model" if questions else "real decoder"}

{unit}; the dense model in bf16: {scale * dense["value"]:.1f} ± {scale * dense["stderr"]:.1f}. Draws
of samples and seeds: {draws}. Standard errors are by {shared}.

{markdown(lines)}

Joint plans minus the others, in {points}; bold is beyond two standard errors.

{markdown(ahead)}

The joint plan's checkpoint at the smallest budget, saved and loaded again: no test sample's
log-likelihood is further than {apart:.1g} from what dequantized weights gave in memory.
"""


def page(sections: list[str]) -> str:
    """The page as Markdown."""
    return f"""# Units and bits

{origin()}

Checkpoints of at most these shares of the dense one's bytes in bf16: of all weights, scales
included. Weights are quantized in groups of 32, and embeddings, vision tower and projector too. A
dash: the method cannot be that small. *Uniform widths* are as many units at every site; *knapsack*
chooses units by what each site loses at that number of bits; *joint* chooses units and bits: of the
knapsack's plans with all bits and with fewer, the one that is best on the reward samples, or what a
search from it finds, if that is better beyond a standard error on samples that were held out.
Recovery comes before quantizing.

{chr(10).join(sections)}
[bits.csv](bits.csv)
"""
