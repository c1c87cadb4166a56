"""Where should a search's time go: into more plans, or into more samples to judge each by?

`python -m benchmarks.effort` writes docs/results/effort.md. Each search starts from the knapsack's
plan by its own samples and ends when it has judged as many pairs of plan and sample as any other.
*Halving* judges a plan by growing shares of the samples and stops where it is hopeless. Compared is
the reward of the best plan on validation samples, which no search has seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common import DATA, MODEL, RESULTS, origin
from lop.comparison import markdown
from lop.files import replacing
from lop.plan import Plan
from lop.reward import Reward
from lop.search.knapsack import profile, solve
from lop.search.mcts import mcts
from lop.steps import preparing, scoring, searching
from lop.tasks.samples import read_samples, write_samples
from lop.workers import in_processes

PARTS = (100, 100, 300, 500)  # reward samples come in parts: the first 100, 200, 500 or all 1,000
SIZES = tuple(int(size) for size in np.cumsum(PARTS))
VALIDATION = 1500
BASE = 200  # samples of the plan that all are compared with
SURE = 2.0  # standard errors behind the best so far at which halving gives a plan up
PLACE = DATA / "effort"


class Judge:
    """The mean reward over the first `parts` of the samples; counts the pairs it has judged."""

    def __init__(self, parts: Sequence[Reward], halving: bool = False) -> None:
        self.parts, self.halving = parts, halving
        self.plans = self.pairs = 0
        self._best: np.ndarray | None = None

    def __call__(self, plan: Plan) -> float:
        """Over all samples; of a plan that was given up, as far behind the best as it was then."""
        self.plans += 1
        values = np.zeros(0)
        for part in self.parts:
            new = part.per_sample(plan)[1]
            values = np.concatenate([values, new])
            self.pairs += len(new)
            if self.halving and self._best is not None:
                gain = values - self._best[: len(values)]
                if gain.mean() + SURE * gain.std() / np.sqrt(len(gain)) < 0:
                    return float(self._best.mean() + gain.mean())
        if self._best is None or values.mean() > self._best.mean():
            self._best = values
        return float(values.mean())


def prepare(place: Path, draw: int) -> None:
    """Samples of one draw, and neuron scores from its calibration samples."""
    if (place / "importance").exists():
        return
    sizes = {"calibration": 500, "reward": SIZES[-1], "validation": VALIDATION, "benchmark": 2}
    preparing.prepare(place / "samples", "reference", draw, sizes)
    samples = read_samples(place / "samples/reward.parquet")
    for i, (size, end) in enumerate(zip(PARTS, SIZES, strict=True)):
        write_samples(samples[end - size : end], place / f"samples/part-{i}.parquet")
    scoring.importance(
        place / "importance",
        MODEL,
        place / "samples/calibration.parquet",
        100,
        place / "samples/reward.parquet",
    )


def reward(place: Path, samples: str) -> Reward:
    """With a model of its own: a reward reorders its model's neurons."""
    where = (place / f"samples/{samples}.parquet", place / "importance")
    return searching.reward_of(MODEL, *where, "flap", False, "loglik", 100)


def one_draw(draw: int, targets: Sequence[float], pairs: int) -> Path:
    """A row a search with the kept neurons of its best plan, and that plan's validation rewards."""
    place = PLACE / str(draw)
    out = place / f"searches-{'-'.join(map(str, targets))}-{pairs}.parquet"
    if out.exists():
        return out
    prepare(place, draw)
    rows: list[dict] = []
    with ExitStack() as entered:
        parts = [entered.enter_context(reward(place, f"part-{i}")) for i in range(len(PARTS))]
        widths = parts[0].widths
        for count, target in product(range(1, len(PARTS) + 1), targets):
            # each part remembers its plans, so the profile is measured once
            shares = [size / SIZES[count - 1] for size in PARTS[:count]]
            mean = lambda plan, s=shares: sum(w * p(plan) for w, p in zip(s, parts, strict=False))  # noqa: E731
            root = solve(profile(mean, widths), target)
            key = {"draw": draw, "target": target, "samples": SIZES[count - 1]}
            rows.append(key | {"way": "knapsack", "plans": 0, "plan": root})
            for halving in (False, True) if count > 2 else (False,):
                judge = Judge(parts[:count], halving)
                plan = best_within(judge, root, pairs, draw)
                way = "halving" if halving else "mcts"
                rows.append(key | {"way": way, "plans": judge.plans, "plan": plan})
    with reward(place, "validation") as validation:
        for row in rows:
            row["rewards"] = validation.per_sample(row["plan"])[1]
            row["plan"] = list(row["plan"].kept)
    with replacing(out) as tmp:
        pd.DataFrame(rows).to_parquet(tmp, index=False)
    return out


def best_within(judge: Judge, root: Plan, pairs: int, seed: int) -> Plan:
    """The best plan that a search finds before it has judged so many pairs."""
    rng = np.random.default_rng([seed, round(root.ratio * 1_000_000)])
    best, plan = -np.inf, root
    for step in mcts(judge, root, pairs, rng):
        if step.reward > best:
            best, plan = step.reward, step.plan
        if judge.pairs >= pairs:
            break
    return plan


def table(results: pd.DataFrame, target: float) -> str:
    """A row a number of samples and way; differences are paired by sample."""
    chosen = results[results["target"] == target]
    base = chosen[(chosen["way"] == "knapsack") & (chosen["samples"] == BASE)]
    base = base.set_index("draw")["rewards"]
    rows = [["samples", "search", "plans", "reward", "difference", "in each draw"], ["---"] * 6]
    for (size, way), group in chosen.groupby(["samples", "way"], sort=False):
        rewards = group.set_index("draw")["rewards"]
        gains = [rewards[draw] - base[draw] for draw in rewards.index]
        error = np.concatenate(gains).std() / np.sqrt(sum(map(len, gains)))
        mean = np.mean([values.mean() for values in rewards])
        each = ", ".join(f"{gain.mean():+.4f}" for gain in gains)
        gain = f"{np.mean(gains):+.4f} ± {error:.4f}"
        rows.append(
            [f"{size}", f"{way}", f"{group['plans'].mean():.0f}", f"{mean:.4f}", gain, each]
        )
    return markdown(rows)


def page(results: pd.DataFrame, pairs: int) -> str:
    """The Markdown page."""
    draws = results["draw"].nunique()
    note = f"""\
Mean log-likelihood on {VALIDATION} validation samples, mean of {draws} draws of all samples
(calibration, reward, validation). Every search was over after {pairs} pairs of plan and sample, so
all took about as long; *plans* is how many it had seen by then. *knapsack* is their root, not
searched: a profile of about {72 * BASE} pairs at {BASE} samples, once for all targets. *halving*
judges by {", ".join(map(str, SIZES[:-1]))} and then all samples, and gives a plan up when it is
{SURE:g} paired standard errors behind the best so far. *difference* is to the knapsack's plan by
{BASE} samples, with the standard error that the validation samples leave; how much another draw of
reward samples changes stands beside it."""
    tables = [
        f"## {100 * target:g} % of FFN neurons\n\n{table(results, target)}"
        for target in sorted(results["target"].unique())
    ]
    return "\n\n".join(["# More plans, or more samples?", origin(), note, *tables]) + "\n"


def main() -> None:
    """Write docs/results/effort.md; finished draws in data/benchmarks/effort are reused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=40_000)
    args = parser.parse_args()
    keys = [(draw, tuple(args.targets), args.pairs) for draw in range(args.draws)]
    shards = in_processes(2, "draws", searching.MODULES)(one_draw, keys)
    text = page(pd.concat(map(pd.read_parquet, shards), ignore_index=True), args.pairs)
    with replacing(RESULTS / "effort.md") as tmp:
        tmp.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
