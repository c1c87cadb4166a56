"""Which searcher finds the best plans at equal numbers of reward evaluations?

`python -m benchmarks.searchers` writes docs/results/searchers/. Plans are searched on the reward
samples; what is compared is the reward of the best plan so far on validation samples, which no
search has seen. Finished searches in data/benchmarks/searchers are reused.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import DATA, RESULTS, origin, place
from flows.common import params
from lop import plots
from lop.comparison import markdown
from lop.files import replacing
from lop.importance import load_scores
from lop.methods import flap_plan
from lop.plan import Plan
from lop.search import run_shard
from lop.search.base import MOVES
from lop.search.knapsack import Profile, solve
from lop.steps import searching
from lop.workers import at_once, processes

MCTS = params().search.settings[0].model_dump(exclude_unset=True, exclude={"simulations"})
# name -> (root, settings). A knapsack root costs a profile besides, once for all targets and seeds;
# a neighbour's root a search of `mcts` at a smaller target.
VARIANTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "mcts (paper)": ("uniform", MCTS | {"exploration": 1.414, "step": 0.1}),
    "mcts": ("uniform", MCTS | {"step": 0.3}),
    "mcts, transfer": ("uniform", MCTS | {"step": 0.3, "move": "transfer"}),
    "mcts, max": ("uniform", MCTS | {"step": 0.3, "value": "max"}),
    "mcts, front to back": ("uniform", MCTS | {"step": 0.3, "move": "front"}),
    "mcts, coarse to fine": ("uniform", MCTS | {"step": 0.3, "move": "coarse"}),
    "mcts, importance root": ("importance", MCTS),
    "mcts, neighbour's root": ("neighbour", MCTS),
    "mcts, knapsack root": ("knapsack", MCTS),
    "mcts, knapsack root, max": ("knapsack", MCTS | {"value": "max"}),
    "mcts, knapsack root, transfer": ("knapsack", MCTS | {"step": 0.2, "move": "transfer"}),
    "mcts, knapsack root, mixed": ("knapsack", MCTS | {"move": "mixed"}),
    "evolution": ("uniform", {"searcher": "evolution"}),
    "evolution, knapsack root": (
        "knapsack",
        {"searcher": "evolution", "step": 0.1, "step_end": 0.02},
    ),
    "random": ("uniform", {"searcher": "random"}),
    "uniform": ("uniform", {"searcher": "uniform"}),
    "knapsack": ("knapsack", {}),  # not searched: its root, whose profile is what it costs
}
COUNTS = (1, 10, 25, 50, 75, 100, 150, 200)
NEIGHBOUR = 0.1  # so far away is the target whose best plan a neighbour's root is
SEARCHES = DATA / "searchers"
NOTE = """\
Mean log-likelihood on validation samples, which no search has seen, of the best plan by the reward
samples after so many evaluations; mean ± standard deviation over seeds. A knapsack root costs a
profile besides (about ten evaluations a layer), once for all targets and seeds; a neighbour's root,
the best plan of *mcts* at 10 points less, costs that search.

![searchers](searchers.png)"""


class ByDepth:
    """A move that depends on how deep in the tree a plan is; these trees have not won a place in
    lop. A plan is met once a search, and a search has a generator of its own."""

    def __init__(self, change: Callable[[np.ndarray, int, float, np.random.Generator], None]):
        self.change = change
        self.rng: np.random.Generator | None = None
        self.depths: dict[tuple[int, ...], int] = {}

    def __call__(self, plan: Plan, delta: float, rng: np.random.Generator, min_keep: float) -> Plan:
        if rng is not self.rng:
            self.rng, self.depths = rng, {}
        depth, ratios = self.depths.get(plan.kept, 0), np.array(plan.ratios)
        self.change(ratios, depth, delta, rng)
        child = Plan.from_ratios(ratios, plan.widths, plan.ratio, min_keep)
        self.depths.setdefault(child.kept, depth + 1)
        return child


def front(ratios: np.ndarray, depth: int, delta: float, rng: np.random.Generator) -> None:
    """Choose one layer's ratio, a level of the tree for each from the front; those behind pay."""
    layer = depth % (len(ratios) - 1)
    moved = rng.uniform(-delta, delta)
    ratios[layer] += moved
    ratios[layer + 1 :] -= moved / (len(ratios) - layer - 1)


def coarse(ratios: np.ndarray, depth: int, delta: float, rng: np.random.Generator) -> None:
    """Move two blocks of layers, then four, and so on to single ones."""
    for block in np.array_split(np.arange(len(ratios)), min(len(ratios), 2 ** (depth + 1))):
        ratios[block] += rng.uniform(-delta, delta)


MOVES |= {"front": ByDepth(front), "coarse": ByDepth(coarse)}


def root_of(kind: str, target: float, profile: Profile, scores: Any) -> Plan:
    """The plan that a variant starts from."""
    if kind == "knapsack":
        return solve(profile, target)
    if kind == "importance":
        return flap_plan(target, profile.widths, {"flap": scores})
    return Plan.uniform(profile.widths, target)


def one_search(
    spot: tuple, root: Plan, target: float, seed: int, simulations: int, settings: dict[str, Any]
) -> Path:
    """The shard of one search."""
    with searching.reward_of(*spot) as reward:
        return run_shard(SEARCHES, reward, target, seed, simulations, root=root, **settings)


def judge(spot: tuple, plans: list[Plan]) -> list[float]:
    """Rewards of plans on the validation samples."""
    with searching.reward_of(*spot) as reward:
        return [reward(plan) for plan in plans]


def incumbents(shard: Path, widths: tuple[int, ...], counts: Sequence[int]) -> list[Plan]:
    """The best plan by the search's own reward after each of `counts` evaluations."""
    table = pd.read_parquet(shard)
    best = [table["reward"].head(count).idxmax() for count in counts]
    return [Plan(widths, tuple(int(k) for k in table["kept"][i])) for i in best]


def run(names: list[str], targets: list[float], seeds: list[int], simulations: int) -> pd.DataFrame:
    """Validation reward by variant, target, seed and evaluations."""
    spot = place()
    path = DATA / "profile.parquet"
    if not path.exists():
        model, samples, scores_dir, score, *_, batch_size = spot
        searching.profile(path, model, samples, scores_dir, score, batch_size=batch_size, workers=2)
    profile = Profile.load(path)
    scores = load_scores(DATA / f"importance/{spot[3]}.safetensors")
    keys = list(product(names, targets, seeds))
    counts = [count for count in COUNTS if count <= simulations]
    with processes(2, searching.MODULES) as call:

        def search(name: str, target: float, seed: int) -> list[Plan]:
            kind, settings = VARIANTS[name]
            if kind == "neighbour":
                nearby = search("mcts", round(target - NEIGHBOUR, 6), seed)[-1]
                root = Plan.from_ratios(nearby.ratios, profile.widths, target)
            else:
                root = root_of(kind, target, profile, scores)
            if name == "knapsack":
                return [root] * len(counts)
            shard = call(one_search, spot, root, target, seed, simulations, settings)
            return incumbents(shard, profile.widths, counts)

        found = at_once(2, "searches")(search, keys)
        half = [found[::2], found[1::2]]
        distinct = [
            sorted({p for plans in part for p in plans}, key=lambda p: p.kept) for part in half
        ]
        rewards: dict[Plan, float] = {}
        judged = at_once(2, "validation")(
            lambda plans: call(judge, place("validation"), plans), [(plans,) for plans in distinct]
        )
        for plans, values in zip(distinct, judged, strict=True):
            rewards |= dict(zip(plans, values, strict=True))
    rows = [
        {"variant": n, "target": t, "seed": s, "evaluations": count, "reward": rewards[plan]}
        for (n, t, s), plans in zip(keys, found, strict=True)
        for count, plan in zip(counts, plans, strict=True)
    ]
    return pd.DataFrame(rows)


def table(results: pd.DataFrame, target: float) -> str:
    """Mean ± standard deviation over seeds, a row a variant, a column a number of evaluations."""
    chosen = results[results["target"] == target]
    counts = sorted(chosen["evaluations"].unique())
    lines = [["searcher", *map(str, counts)], ["---"] * (1 + len(counts))]
    means = chosen.pivot_table("reward", "variant", "evaluations", "mean", sort=False)
    spread = chosen.pivot_table("reward", "variant", "evaluations", lambda x: np.std(x), sort=False)
    for name in means.index:
        cells = zip(means.loc[name], spread.loc[name], strict=True)
        lines.append([str(name), *(f"{mean:.3f} ± {std:.3f}" for mean, std in cells)])
    return markdown(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--targets", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS / "searchers")
    args = parser.parse_args()
    results = run(args.variants, args.targets, args.seeds, args.simulations)
    tables = [f"## {100 * t:g} % of FFN neurons\n\n{table(results, t)}" for t in args.targets]
    page = "\n\n".join(["# Searchers", origin(), NOTE, *tables]) + "\n"
    args.out.mkdir(parents=True, exist_ok=True)
    with replacing(args.out / "searchers.md") as tmp:
        tmp.write_text(page)
    with replacing(args.out / "searchers.csv") as tmp:
        results.to_csv(tmp, index=False)
    plots.searchers(results, args.out / "searchers.png")
    print(page)


if __name__ == "__main__":
    main()
