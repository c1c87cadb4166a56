"""Which network, which samples, how many targets and simulations make a good predictor?

    make full                                  # or an hour more of searching here
    python -m benchmarks.predictors            # about 20 minutes on two cores
    python -m benchmarks.predictors --quick    # a smoke run

On the reference model, with params.yaml's search and training settings. Scores come from the
calibration set, search sees the reward set, and everything reported is of the validation set; the
benchmark set is not looked at. Searches are kept, and those of the full profile are taken.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from benchmarks.common import MODEL, RESULTS
from benchmarks.predictors_page import write_results
from lop.errors import LopError
from lop.importance import load_scores, made_for
from lop.plan import Plan
from lop.predictor import NETWORKS, PredictorConfig
from lop.predictor.training import train
from lop.search import best_plan
from lop.search.knapsack import Profile, solve
from lop.steps import preparing, scoring, searching
from lop.workers import at_once, processes


@dataclass(frozen=True)
class Scale:
    """How much is searched, trained and judged."""

    targets: Mapping[int, tuple[float, ...]]  # nested sets, by their size; none has an unseen ratio
    simulations: tuple[int, ...]  # a target; searches are as long as the last
    seeds: tuple[int, ...]  # of a search and of the training on it
    seen: tuple[float, ...]  # searched ratios that predictors are judged at
    unseen: tuple[float, ...]
    sizes: Mapping[str, int]  # of the sample sets
    fit_options: dict[str, Any]  # on top of params.yaml's


DEFAULT_TARGETS = 5
GRID = tuple(round(0.1 + 0.025 * i, 3) for i in range(21))
FULL = Scale(
    targets={
        3: (0.1, 0.3, 0.6),
        5: (0.1, 0.2, 0.3, 0.5, 0.6),
        9: (0.1, 0.15, 0.2, 0.3, 0.35, 0.45, 0.5, 0.55, 0.6),
        19: tuple(b for b in GRID if b not in (0.25, 0.4)),  # the paper's steps
    },
    simulations=(6, 12, 25, 60),
    seeds=(0, 1, 2),
    seen=(0.2, 0.5),
    unseen=(0.25, 0.4),
    sizes={"calibration": 500, "reward": 1000, "validation": 1000, "benchmark": 2},
    fit_options={},
)
QUICK = replace(
    FULL,
    targets={3: FULL.targets[3], 5: FULL.targets[5]},
    simulations=(4, 8),
    seeds=(0, 1),
    sizes={"calibration": 60, "reward": 40, "validation": 60, "benchmark": 2},
    fit_options={"epochs": 20},
)


@dataclass(frozen=True)
class Choice:
    """Which samples are learned from: of one search seed or of all, and `best_samples`' options."""

    top: int
    per_seed: bool = False
    weight: str = "equal"
    smooth: int = 0
    all_seeds: bool = False
    base: str = "knapsack"


CHOICES = {
    "top 1": Choice(1),
    "top 3": Choice(3),
    "top 10": Choice(10),
    "top 20": Choice(20),
    "top 20, weighted by reward": Choice(20, weight="reward"),
    "top 10, smoothed": Choice(10, smooth=1),
    # for three seeds, as many plans either way
    "all seeds, top 15": Choice(15, all_seeds=True),
    "all seeds, top 5 of each": Choice(5, all_seeds=True, per_seed=True),
    "top 10, uniform base": Choice(10, base="uniform"),
}


# a sample's weight by its rank 1 … count among its target's good samples
WEIGHTS: Mapping[str, Callable[[pd.Series, pd.Series], pd.Series]] = {
    "equal": lambda rank, count: rank * 0 + 1.0,
    # the recombination weights of CMA-ES: they need no temperature and no unit of reward
    "reward": lambda rank, count: np.log(count + 0.5) - np.log(rank),
}


def best_samples(
    samples: pd.DataFrame, top: int, per_seed: bool = False, weight: str = "equal"
) -> pd.DataFrame:
    """The `top` distinct plans of highest reward for each target, best first, with a weight each.

    They are the best of all the target's searches together; with `per_seed`, of each search.
    `weight` is `equal` or `reward`: ln(top + ½) − ln(rank). Every target has the same total weight,
    whatever its rewards: those of large ratios are low, and would vanish. Weights average 1.

    Raises LopError for a `top` below 1 or an unknown `weight`.
    """
    if top < 1:
        raise LopError(f"top {top}: expected at least 1")
    if weight not in WEIGHTS:
        raise LopError(f"weight {weight!r}: expected one of {', '.join(WEIGHTS)}")
    # a search is told by what finds plans, too: two searchers may have the same seed
    search = ["searcher", "target", "seed"] if per_seed else ["target"]
    unique = samples.assign(key=samples["kept"].map(tuple)).drop_duplicates([*search, "key"])
    ranked = unique.drop(columns="key").sort_values("reward", ascending=False, kind="stable")
    good = ranked.groupby(search).head(top).sort_values("target", kind="stable")
    peers = good.groupby(search)["reward"]
    weights = WEIGHTS[weight](peers.cumcount() + 1, peers.transform("size"))
    totals = weights.groupby(good["target"]).transform("sum")
    return good.assign(weight=weights / totals * len(good) / good["target"].nunique())


@dataclass(frozen=True)
class Case:
    """One predictor of the experiment."""

    part: str  # choices: kinds × sample choices; learning: targets × simulations
    kind: str
    samples: str  # the choice's name
    choice: Choice
    targets: int
    simulations: int
    seed: int

    def label(self, seeds: int) -> dict[str, Any]:
        """What the page shows of it, and how many plans it took when there are so many seeds."""
        plans = self.targets * self.simulations * (seeds if self.choice.all_seeds else 1)
        shown = {name: value for name, value in vars(self).items() if name != "choice"}
        return shown | {"plans": plans}


def cases(scale: Scale) -> Iterator[Case]:
    """Every predictor to be trained."""
    most = scale.simulations[-1]
    for kind, (name, choice), seed in product(NETWORKS, CHOICES.items(), scale.seeds):
        yield Case("choices", kind, name, choice, DEFAULT_TARGETS, most, seed)
    for count, simulations, seed in product(scale.targets, scale.simulations, scale.seeds):
        # with few simulations, ten plans would be most of them, the bad ones too
        choice = Choice(min(10, max(1, simulations // 10)))
        yield Case("learning", "transformer", "best tenth", choice, count, simulations, seed)


def select(searched: pd.DataFrame, case: Case, scale: Scale) -> pd.DataFrame:
    """The samples a case learns from.

    A search of n simulations is the beginning of a longer one: it is sequential, and its seed does
    not depend on n.
    """
    rows = searched[searched["target"].isin(scale.targets[case.targets])]
    rows = rows[rows["simulation"] < case.simulations]
    if not case.choice.all_seeds:
        rows = rows[rows["seed"] == case.seed]
    return best_samples(rows, case.choice.top, case.choice.per_seed, case.choice.weight)


@dataclass(frozen=True)
class Place:
    """Where the inputs of the experiment lie, and which neurons go."""

    root: Path
    score: str
    compensate: bool
    batch_size: int

    @property
    def scores(self) -> Path:
        return self.root / "importance"

    @property
    def profile(self) -> Path:
        return self.root / "profile.parquet"

    def samples(self, purpose: str) -> Path:
        return self.root / "samples" / f"{purpose}.parquet"


def prepare(place: Place, scale: Scale, seed: int) -> None:
    """Draw the samples and score the neurons; seconds, so they are not looked for first."""
    preparing.prepare(place.root / "samples", "reference", seed, scale.sizes)
    scoring.importance(
        place.scores, MODEL, place.samples("calibration"), place.batch_size, place.samples("reward")
    )


def adopt_searches(out: Path) -> None:
    """Take over the full profile's searches; a shard's name says all that it is of."""
    out.mkdir(parents=True, exist_ok=True)
    for shard in Path("data/search").glob("[!.]*.parquet"):
        if not (out / shard.name).exists():
            shutil.copy(shard, out)


def search(place: Place, scale: Scale, options: Mapping[str, Any], workers: int) -> pd.DataFrame:
    """All search samples of the experiment, searched for where they are not there yet.

    The unseen ratios are searched too: that is what predictions are held against.
    """
    where = (MODEL, place.samples("reward"), place.scores, place.score)
    same = {name: options[name] for name in ("compensate", "reward", "batch_size")}
    searching.profile(place.profile, *where, **same, workers=workers)
    out = place.root / "search"
    adopt_searches(out)
    targets = sorted({*scale.seen, *scale.unseen}.union(*scale.targets.values()))
    shards = searching.search(
        out,
        *where,
        targets=targets,
        seeds=scale.seeds,
        settings={**options["settings"], "simulations": scale.simulations[-1]},
        start="knapsack",
        profile_path=place.profile,
        workers=workers,
        **same,
    )
    return pd.concat(map(pd.read_parquet, shards), ignore_index=True)


@lru_cache(maxsize=1)
def judge(place: Place) -> Callable[[Plan], dict[str, np.ndarray]]:
    """Plan -> its answers on the validation set: `correct` and `loglik`, (N,) each."""
    where = (MODEL, place.samples("validation"), place.scores, place.score, place.compensate)
    # entered for as long as this process lives
    reward = searching.reward_of(*where, "loglik", place.batch_size).__enter__()

    @cache
    def answers(plan: Plan) -> dict[str, np.ndarray]:
        return dict(zip(("correct", "loglik"), reward.per_sample(plan), strict=True))

    return answers


def judge_plans(place: Place, plans: Mapping[float, Plan]) -> list[dict[str, Any]]:
    """A row a ratio."""
    return [{"ratio": ratio, **judge(place)(plan)} for ratio, plan in plans.items()]


def fit_and_judge(
    place: Place,
    good: pd.DataFrame,
    config: PredictorConfig,
    seed: int,
    fit_options: Mapping[str, Any],
    ratios: tuple[float, ...],
) -> list[dict[str, Any]]:
    """Train a predictor and judge what it predicts."""
    profile = Profile.load(place.profile) if config.base == "knapsack" else None
    predictor = train(good, config, seed, profile=profile, **fit_options)
    return judge_plans(place, {ratio: predictor.plan(ratio) for ratio in ratios})


class Job(NamedTuple):
    """Work for another process, which gives a row a ratio, and what these rows are of."""

    label: dict[str, Any]
    work: Callable[..., list[dict[str, Any]]]
    args: tuple[Any, ...]


def jobs(
    place: Place, scale: Scale, train_params: Mapping[str, Any], searched: pd.DataFrame
) -> Iterator[Job]:
    """Judge uniform plans, the knapsack's, full searches and every case."""
    scores = place.scores / f"{place.score}.safetensors"
    widths = tuple(len(layer) for layer in load_scores(scores))
    ratios = scale.seen + scale.unseen
    uniform = {ratio: Plan.uniform(widths, ratio) for ratio in ratios}
    yield Job({"part": "uniform", "seed": 0}, judge_plans, (place, uniform))
    profile = Profile.load(place.profile)
    solved = {ratio: solve(profile, ratio) for ratio in ratios}
    yield Job({"part": "knapsack", "seed": 0}, judge_plans, (place, solved))
    for seed in scale.seeds:
        rows = searched[searched["seed"] == seed].groupby("target")
        best = {ratio: best_plan(rows.get_group(ratio), widths) for ratio in ratios}
        yield Job({"part": "search", "seed": seed}, judge_plans, (place, best))
    shape = train_params["network"]
    config = PredictorConfig(widths, made_for(scores), min_ratio=GRID[0], max_ratio=GRID[-1])
    for case in cases(scale):
        fit_options = train_params["fit_options"] | scale.fit_options
        options = fit_options | {"smooth": case.choice.smooth}
        network = replace(config, **shape | {"kind": case.kind, "base": case.choice.base})
        judged_at = ratios if case.part == "choices" else scale.unseen
        args = (place, select(searched, case, scale), network, case.seed, options, judged_at)
        yield Job(case.label(len(scale.seeds)), fit_and_judge, args)


def run(work: Iterable[Job], workers: int) -> pd.DataFrame:
    """All rows of all jobs."""
    with processes(workers, searching.MODULES) as call:

        def one(job: Job) -> list[dict[str, Any]]:
            return [job.label | row for row in call(job.work, *job.args)]

        results = at_once(workers, "predictors")(one, ((job,) for job in work))
    return pd.DataFrame([row for rows in results for row in rows])


def main() -> None:
    """Search, train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arg = parser.add_argument
    arg("--out", type=Path, default=Path("data/benchmarks/predictors"), help="searches; kept")
    arg("--results", type=Path, help="default docs/results/predictors; --quick: OUT/quick")
    arg("--quick", action="store_true", help="minutes, and numbers that mean nothing")
    arg("--workers", type=int, default=2, help="processes (default 2)")
    args = parser.parse_args()
    params = yaml.safe_load(Path("params.yaml").read_text())
    scale = QUICK if args.quick else FULL
    results = args.results or (args.out / "quick" if args.quick else RESULTS / "predictors")
    options = params["search"]
    place = Place(args.out, options["score"], options["compensate"], options["batch_size"])
    begun = time.perf_counter()

    def done(what: str) -> None:
        print(f"{time.perf_counter() - begun:6.0f} s  {what}", flush=True)

    prepare(place, scale, params["prepare"]["seed"])
    done("samples and scores")
    searched = search(place, scale, options, args.workers)
    done(f"{len(searched):,} plans searched")
    judged = run(jobs(place, scale, params["train"], searched), args.workers)
    done(f"{len(judged):,} plans judged")
    write_results(judged, scale.unseen, results)
    done(f"{results}/predictors.md")


if __name__ == "__main__":
    try:
        main()
    except LopError as error:
        sys.exit(f"predictors: {error}")
