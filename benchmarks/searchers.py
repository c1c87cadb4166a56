"""Which searcher finds the best plans, for samples that it did not see?

`python -m benchmarks.searchers` writes docs/results/search/. Every searcher starts from the
knapsack's plan and may judge as many reward samples. Measured is what its best plan gains on the
knapsack's, on the reward samples that it saw and on validation samples that no search saw, over
draws of all samples. Finished searches are reused.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import RESULTS, origin
from benchmarks.grid import steps
from benchmarks.yardsticks import YARDSTICKS, drawn
from lop.data.clusters import clustered_error
from lop.evaluation.comparison import markdown
from lop.files import replacing
from lop.plan import Plan
from lop.predictor.training import good_samples
from lop.profile import solve
from lop.report import plots
from lop.search import best_plan, run_shard
from lop.steps import searching
from lop.workers import at_once, processes

# name -> settings, and the share of the samples that it does not see and by which it chooses
VARIANTS: dict[str, tuple[dict[str, Any], float]] = {
    "surrogate": ({"searcher": "surrogate"}, 0.3),
    "local": ({"searcher": "local"}, 0.3),
    "mcts": ({"searcher": "mcts"}, 0.3),
    "mcts, max": ({"searcher": "mcts", "value": "max"}, 0.3),
    "evolution": ({"searcher": "evolution", "step": 0.1, "step_end": 0.02}, 0.3),
    "mcts, all samples": ({"searcher": "mcts"}, 0.0),  # as lop searched before
}
PARTS = 10
COLUMNS = (
    "model", "searcher", "ratio", "evaluations", "gain_reward", "gain_validation", "stderr",
)  # fmt: skip
NOTE = """\
Gain over the knapsack's plan in nats a sample: of log-likelihood (reference), or of minus the
divergence from the unpruned model at all tokens (real). Evaluations are on all reward samples; a
search that holds samples out judges that many more plans by the others. *reward*: on the samples
that chose the plan; *validation*: on samples that no search saw. Means over {draws} draws of all
samples; the error is the larger of that by picture or document, and that from draw to draw. All
but *all samples* choose among their three best plans by samples that they held out, and keep the
knapsack's where none of them is surely better.

![gain](gain.png)"""


def found(samples: pd.DataFrame, root: Plan, held: float) -> Plan:
    """The plan that a search's samples speak for: what a predictor would learn from."""
    if not held:
        return best_plan(samples, root.space)
    good = good_samples(samples)
    return Plan(root.space, tuple(int(k) for k in good.loc[good["gain"].idxmax(), "kept"]))


def one_search(
    yardstick: str, draw: int, name: str, target: float, root: Plan, evaluations: int
) -> Plan:
    """The plan that a searcher finds in a draw."""
    settings, held = VARIANTS[name]
    of = drawn(yardstick, draw)
    count = round(evaluations / (1 - held))
    with of.reward("reward", of.chosen, parts=PARTS) as reward:
        path = run_shard(
            of.folder / "search", reward, target, draw, count, root=root,
            hold_out=held, **settings,
        )  # fmt: skip
    return found(pd.read_parquet(path), root, held)


def judge(yardstick: str, draw: int, purpose: str, plans: list[Plan]) -> list[np.ndarray]:
    """Rewards of plans on each sample of a purpose."""
    of = drawn(yardstick, draw)
    with of.reward(purpose, of.chosen) as reward:
        return [reward.values(plan, 0) for plan in plans]


def run(
    yardstick: str, names: list[str], targets: list[float], draws: int, evaluations: int
) -> pd.DataFrame:
    """A row a searcher, target and draw: gains, and the errors of those on validation samples."""
    YARDSTICKS[yardstick].ready()
    rows = []
    with processes(2, [*searching.MODULES, "benchmarks.searchers"]) as call:
        for draw in range(draws):
            profile = steps.profile(drawn(yardstick, draw))
            roots = {target: solve(profile, target) for target in targets}
            keys = [
                (yardstick, draw, name, target, roots[target], evaluations)
                for name, target in product(names, targets)
            ]
            plans = at_once(2, f"draw {draw}")(lambda *key: call(one_search, *key), keys)
            asked = [*roots.values(), *plans]
            values = {
                purpose: dict(zip(asked, call(judge, yardstick, draw, purpose, asked), strict=True))
                for purpose in ("reward", "validation")
            }
            pictures, _ = drawn(yardstick, draw).asked("validation")
            for (_, _, name, target, root, _), plan in zip(keys, plans, strict=True):
                gaps = {p: of[plan] - of[root] for p, of in values.items()}
                rows.append(
                    {
                        "searcher": name,
                        "ratio": target,
                        "draw": draw,
                        "gain_reward": gaps["reward"].mean(),
                        "gain_validation": gaps["validation"].mean(),
                        "stderr": clustered_error(gaps["validation"], pictures),
                    }
                )
    return pd.DataFrame(rows)


def summed_up(table: pd.DataFrame, model: str, evaluations: int) -> pd.DataFrame:
    """Means over draws, with the larger error: within draws, or between them."""
    rows = []
    for (name, ratio), of in table.groupby(["searcher", "ratio"], sort=False):
        within = np.sqrt(np.square(of["stderr"]).sum()) / len(of)
        between = of["gain_validation"].std() / np.sqrt(len(of)) if len(of) > 1 else 0.0
        means = of[["gain_reward", "gain_validation"]].mean()
        rows.append((model, name, ratio, evaluations, *means, max(within, between)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def page(gains: pd.DataFrame, draws: int) -> str:
    """The page: a table a model, a row a searcher, a column a ratio."""
    parts = ["# Searchers", origin(), NOTE.format(draws=draws)]
    for (model, evaluations), of in gains.groupby(["model", "evaluations"], sort=False):
        ratios = sorted(of["ratio"].unique())
        lines = [["searcher", *(f"{100 * r:g} %: reward / validation" for r in ratios)]]
        lines.append(["---"] * len(lines[0]))
        for name, rows in of.groupby("searcher", sort=False):
            cells = rows.set_index("ratio").loc[ratios].itertuples()
            lines.append(
                [
                    str(name),
                    *(
                        f"{c.gain_reward:+.4f} / {c.gain_validation:+.4f} ± {c.stderr:.4f}"
                        for c in cells
                    ),
                ]
            )
        parts += [f"## {model}, {evaluations} evaluations", markdown(lines)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=YARDSTICKS, default=list(YARDSTICKS))
    parser.add_argument("--searchers", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--targets", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=35)
    parser.add_argument("--out", type=Path, default=RESULTS / "search")
    args = parser.parse_args()
    tables = [
        summed_up(
            run(name, args.searchers, args.targets, args.draws, args.evaluations),
            name,
            args.evaluations,
        )
        for name in args.models
    ]
    gains = pd.concat(tables, ignore_index=True)
    args.out.mkdir(parents=True, exist_ok=True)
    with replacing(args.out / "gain.csv") as tmp:
        gains.to_csv(tmp, index=False)
    plots.gains(gains, args.out / "gain.png")
    with replacing(args.out / "searchers.md") as tmp:
        tmp.write_text(page(gains, args.draws))
    print(page(gains, args.draws))


if __name__ == "__main__":
    main()
