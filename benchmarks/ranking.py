"""How well few samples rank plans: Kendall's tau with the ranking by many other samples.

`python -m benchmarks.ranking` writes docs/results/ranking/.

Plans are drawn around the knapsack's. Each reward evaluates all of them on the same samples or,
pooled by the surrogate, on different ones, with the same number of sample evaluations. The
reference ranking is by log-likelihood on other samples. The page also gives the agreement of the
reference between the two halves of its pictures or documents, which is the upper limit for a
reward.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common import RESULTS, origin
from benchmarks.grid import steps
from benchmarks.yardsticks import YARDSTICKS, drawn
from lop.evaluation.comparison import markdown
from lop.files import replacing
from lop.plan import Plan
from lop.profile import solve
from lop.reward import Reward
from lop.search.base import shake
from lop.search.drawn import Drawn
from lop.search.surrogate import Surrogate

PLANS, STEP, PARTS, HALVES = 40, 0.1, 20, 20
COLUMNS = ("model", "reward", "samples", "ratio", "tau", "truth_tau", "draws")


def tau(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's tau of two rankings without ties, (n,) each."""
    signs = np.sign(a[:, None] - a) * np.sign(b[:, None] - b)
    return float(signs.sum() / (len(a) * (len(a) - 1)))


def halves(values: np.ndarray, pictures: np.ndarray, rng: np.random.Generator) -> float:
    """Tau between means over one half of the pictures and over the other; values (plans, N)."""
    names, found = np.unique(pictures), []
    for _ in range(HALVES):
        first = np.isin(pictures, rng.permutation(names)[: len(names) // 2])
        found.append(tau(values[:, first].mean(1), values[:, ~first].mean(1)))
    return float(np.mean(found))


def fixed(reward: Reward, plans: list[Plan], count: int) -> np.ndarray:
    """Means over the first `count` of a reward's samples; (plans,)."""
    return np.array(
        [
            np.concatenate([reward.values(plan, p) for p in range(len(reward.parts))])[
                :count
            ].mean()
            for plan in plans
        ]
    )


def pooled(reward: Reward, root: Plan, plans: list[Plan], rng: np.random.Generator) -> np.ndarray:
    """The surrogate's mean for each plan; (plans,).

    Each of these plans, and as many others as make up the same cost as `PLANS` plans judged by half
    of the samples, is judged by one part of them.
    """
    judge, beliefs = Drawn(reward, range(len(reward.parts))), Surrogate()
    others = [shake(root, STEP, rng) for _ in range(PLANS * PARTS // 2 - len(plans))]
    for i, plan in enumerate([*plans, *others]):
        beliefs.add(_change(plan, root), *judge.gap(plan, root, [i % len(reward.parts)]))
    beliefs.fit()
    return beliefs.posterior(np.stack([_change(plan, root) for plan in plans]))[0]


def _change(plan: Plan, root: Plan) -> np.ndarray:
    return (np.array(plan.kept) - np.array(root.kept)) / np.array(root.space.units)


def run(yardstick: str, ratios: list[float], draws: int) -> pd.DataFrame:
    """A row for each reward, number of samples and ratio: taus, means over draws."""
    YARDSTICKS[yardstick].ready()
    rows = []
    for number in range(draws):
        draw = drawn(yardstick, number)
        profile = steps.profile(draw)
        rng = np.random.default_rng(number)
        around = {r: solve(profile, r) for r in ratios}
        plans = {r: [shake(root, STEP, rng) for _ in range(PLANS)] for r, root in around.items()}
        truths, agreement = {}, {}
        with draw.reward("validation", draw.chosen, "loglik") as reward:
            for ratio in ratios:
                values = np.stack([reward.values(plan, 0) for plan in plans[ratio]])
                truths[ratio] = values.mean(1)
                agreement[ratio] = halves(values, reward.parts[0].pictures, rng)
        for kind in ("loglik", "kl", "kl_text"):
            with draw.reward("reward", draw.chosen, kind, PARTS) as reward:
                size = sum(len(part.numbers) for part in reward.parts)
                for ratio, root in around.items():
                    found = {
                        (kind, count): fixed(reward, plans[ratio], count)
                        for count in (size // 10, size // 2)
                    }
                    name = f"{kind}, pooled"
                    found[name, size // 2] = pooled(reward, root, plans[ratio], rng)
                    rows += [
                        (
                            yardstick,
                            *key,
                            ratio,
                            tau(means, truths[ratio]),
                            agreement[ratio],
                            1,
                        )
                        for key, means in found.items()
                    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    keys = ["model", "reward", "samples", "ratio"]
    means = {"tau": "mean", "truth_tau": "mean", "draws": "sum"}
    return table.groupby(keys, sort=False).agg(means).reset_index()


def page(table: pd.DataFrame) -> str:
    """A table for each model: a row for each reward and number of samples, a column for each
    ratio."""
    parts = ["# How well few samples rank plans", origin(), (__doc__ or "").split("\n\n", 2)[2]]
    for name, of in table.groupby("model", sort=False):
        ratios = sorted(of["ratio"].unique())
        lines = [["reward", "samples a plan", *(f"tau at {100 * r:g} %" for r in ratios)]]
        lines.append(["---"] * len(lines[0]))
        for (reward, samples), rows in of.groupby(["reward", "samples"], sort=False):
            taus = rows.set_index("ratio")["tau"].loc[ratios]
            lines.append([str(reward), str(samples), *(f"{value:.2f}" for value in taus)])
        own = of.groupby("ratio")["truth_tau"].mean().loc[ratios]
        lines.append(["truth, half against half", "", *(f"{value:.2f}" for value in own)])
        parts += [f"## {name}", markdown(lines)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=YARDSTICKS, default=list(YARDSTICKS))
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "ranking")
    args = parser.parse_args()
    table = pd.concat([run(m, args.ratios, args.draws) for m in args.models])
    args.out.mkdir(parents=True, exist_ok=True)
    with replacing(args.out / "ranking.csv") as tmp:
        table.to_csv(tmp, index=False)
    with replacing(args.out / "ranking.md") as tmp:
        tmp.write_text(page(table))
    print(page(table))


if __name__ == "__main__":
    main()
