"""The pipeline's steps as functions from files to files; flows and the command line call them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from lop.comparison import TITLES, Comparison, differences_markdown
from lop.errors import LopError
from lop.files import clear_leftovers, replacing, replacing_dir
from lop.importance import collect, load_all_scores, load_scores, made_for, save_scores
from lop.methods import Kit, method, prune_checkpoint
from lop.models.checkpoint import fingerprint, load, load_processor
from lop.models.ffn import ffn_widths
from lop.plan import Plan, check_ratio
from lop.predictor import Predictor, PredictorConfig
from lop.predictor.training import good_samples, latency_ms, samples_fingerprint
from lop.predictor.training import train as fit
from lop.reward import Reward
from lop.search import by_searcher, read_search, run_shard, write_index
from lop.search.knapsack import SHARES, Profile, solve
from lop.search.knapsack import profile as profile_layers
from lop.tasks.encoding import encode
from lop.tasks.prepare import prepare_samples
from lop.tasks.samples import read_samples, write_samples
from lop.workers import Each, in_processes, once_a_thread


def prepare(out: Path, source: str, seed: int, **sizes: int | None) -> None:
    """Write a table of samples a purpose: calibration, reward, validation, benchmark."""
    tables = prepare_samples(source, seed, **sizes)
    with replacing_dir(out, like="calibration.parquet") as tmp:
        for name, table in tables.items():
            write_samples(table, tmp / f"{name}.parquet")


def importance(out: Path, model_path: str, samples_path: Path, batch_size: int) -> None:
    """Write every score of `lop.importance.SCORES` from one pass over calibration samples."""
    model, processor = load(model_path), load_processor(model_path)
    samples = read_samples(samples_path)
    batches = encode(samples, model, processor, batch_size)
    scores = collect(model, batches, total=-(-len(samples) // batch_size))
    name_of_model = fingerprint(model)
    with replacing_dir(out, like="mean_activation.safetensors") as tmp:
        for name, layers in scores.items():
            save_scores(layers, tmp / f"{name}.safetensors", name_of_model)


def profile(
    out: Path,
    model_path: str,
    samples_path: Path,
    scores_dir: Path,
    score: str,
    shares: Sequence[float] = SHARES,
    compensate: bool = False,
    reward: str = "loglik",
    batch_size: int = 100,
    workers: int = 1,
    each: Each[Profile] | None = None,
) -> None:
    """Write the profile of a model: its reward with each layer alone cut by each of `shares`.

    The layers are measured in `workers` processes; `each` calls them (flows put in their tasks).
    """
    place = (model_path, samples_path, scores_dir, score, compensate, reward, batch_size)
    layers = range(len(_widths(scores_dir)))
    work = partial(_profile_one, place, tuple(shares))
    parts = (each or in_processes(workers, "profile", ["lop.steps"]))(work, [(i,) for i in layers])
    table = pd.concat([part.table for part in parts], ignore_index=True)
    Profile(parts[0].widths, table, parts[0].fingerprint).save(out)


def _profile_one(place: tuple[Any, ...], shares: tuple[float, ...], layer: int) -> Profile:
    with reward_of(*place) as reward:
        return profile_layers(reward, reward.widths, shares, layers=[layer])


def search(
    out: Path,
    model_path: str,
    samples_path: Path,
    scores_dir: Path,
    score: str,
    targets: Sequence[float],
    seeds: Sequence[int],
    settings: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    start: str = "uniform",
    profile_path: Path | None = None,
    compensate: bool = False,
    reward: str = "loglik",
    batch_size: int = 100,
    workers: int = 1,
    each: Each[Path] | None = None,
) -> list[Path]:
    """Write one shard of search samples a (searcher, target, seed); finished shards are kept.

    Searches `start` from the `uniform` plan or from the `knapsack`'s, which needs a profile.
    `settings` go to `lop.search.search`; a list of them, one a searcher, makes that many searches.
    They run in `workers` processes, or wherever `each` calls them (flows put in their
    tasks here): what it calls can be pickled, and needs the files named here and nothing else.
    """
    place = (model_path, samples_path, scores_dir, score, compensate, reward, batch_size)
    # the widths stand in the scores: with several workers, only those need the model
    widths = _widths(scores_dir)
    for target in targets:
        check_ratio(widths, target)
    profile = _profile_of(start, profile_path)
    chosen = by_searcher(settings)
    work = partial(_search_one, place, out, profile, chosen)
    each = each or in_processes(workers, "searches", ["lop.steps"])
    shards = each(work, product(chosen, targets, seeds))
    clear_leftovers(out)  # of killed runs and workers; none is writing now
    write_index(out, shards)
    return shards


def _search_one(
    place: tuple[Any, ...],
    out: Path,
    profile: Profile | None,
    settings: Mapping[str, Mapping[str, Any]],
    searcher: str,
    target: float,
    seed: int,
) -> Path:
    with reward_of(*place) as reward:
        if profile and profile.fingerprint != reward.fingerprint:
            raise LopError(
                f"profile of reward {profile.fingerprint}, the search's is {reward.fingerprint}: "
                "measure it with the same model, scores, samples and settings"
            )
        root = solve(profile, target) if profile else None
        return run_shard(out, reward, target, seed, root=root, **settings[searcher])


def _check_options(section: str, options: Mapping[str, Any], of: Callable[..., Any]) -> None:
    """Raise LopError for an option that `of` does not have."""
    known = inspect.signature(of).parameters
    if unknown := sorted(set(options) - set(known)):
        raise LopError(f"params, section {section}: no option {unknown[0]!r}")


def _profile_of(kind: str, path: Path | None) -> Profile | None:
    """What is needed for plans of this kind to begin with: nothing if uniform, else a profile."""
    if kind not in ("uniform", "knapsack"):
        raise LopError(f"plans to begin with {kind!r}: expected uniform or knapsack")
    if kind == "uniform":
        return None
    if path is None:
        raise LopError("to begin with the knapsack's plans, give a profile")
    return Profile.load(path)


def _widths(scores_dir: Path) -> list[int]:
    return [len(layer) for layer in load_scores(scores_dir / "mean_activation.safetensors")]


@once_a_thread
def reward_of(
    model_path: str,
    samples_path: Path,
    scores_dir: Path,
    score: str,
    compensate: bool,
    kind: str,
    batch_size: int,
) -> Reward:
    """The reward of a search; each thread makes it once, as it reorders its model's neurons.

    Raises LopError when there is no such score.
    """
    model, processor = load(model_path), load_processor(model_path)
    scores = load_all_scores(scores_dir, fingerprint(model))
    if score not in scores:
        raise LopError(f"score {score!r}: expected one of {', '.join(scores)}")
    means = scores["mean_activation"] if compensate else None
    samples = read_samples(samples_path)
    return Reward(model, processor, samples, scores[score], kind, batch_size, means)


def train(
    out: Path,
    curve_out: Path,
    search_dir: Path,
    scores_path: Path,
    seed: int,
    samples: Mapping[str, Any],
    network: Mapping[str, Any],
    fit_options: Mapping[str, Any],
    base: str = "uniform",
    profile_path: Path | None = None,
) -> tuple[dict[str, float], str]:
    """Write a predictor, its learning curve and metrics.

    `samples` are the options of `good_samples`, `network` those of `PredictorConfig`,
    `fit_options` those of `lop.predictor.training.train`; `base` names the plans that it learns to
    differ from, `uniform` or the `knapsack`'s.

    Returns the metrics, and the fingerprint of the samples it learned from.
    """
    _check_options("train.samples", samples, good_samples)
    _check_options("train.network", network, PredictorConfig)
    _check_options("train.fit_options", fit_options, fit)
    good = good_samples(read_search(search_dir), **samples)
    config = PredictorConfig(
        widths=tuple(len(layer) for layer in load_scores(scores_path)),
        model_fingerprint=made_for(scores_path),
        min_ratio=float(good["target"].min()),
        max_ratio=float(good["target"].max()),
        base=base,
        **network,
    )
    profile = _profile_of(base, profile_path)
    curve: dict[int, dict[str, float]] = {}

    def log(name: str, value: float, epoch: int) -> None:
        curve.setdefault(epoch, {"epoch": epoch})[name] = value

    predictor = fit(good, config, seed, profile=profile, log=log, **fit_options)
    predictor.save_pretrained(out)
    table = pd.DataFrame(curve.values())
    metrics = {"samples": len(good), "predict_ms": latency_ms(predictor)}
    metrics |= table.ffill().iloc[-1].drop("epoch").to_dict()
    with replacing_dir(curve_out, like="curve.csv") as tmp:
        table.to_csv(tmp / "curve.csv", index=False)
        (tmp / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics, samples_fingerprint(good)


def prune_one(out: Path, name: str, ratio: float, cutter: Cutter) -> Plan:
    """Write the checkpoint that method `name` cuts out of a model at `ratio`."""
    return cutter.ready([name])(name, ratio, out)


def prune_grid(out: Path, methods: Sequence[str], ratios: Sequence[float], cutter: Cutter) -> None:
    """Write a checkpoint a (method, ratio), `<method>-<ratio>/`, and plans.json."""
    cut = cutter.ready(methods)
    plans = []
    with replacing_dir(out, like="plans.json") as tmp:
        for name, ratio in product(methods, ratios):
            plan = cut(name, ratio, tmp / f"{name}-{ratio:g}")
            plans.append({"method": name, "ratio": ratio, "kept": plan.kept, "plan": plan.ratios})
        (tmp / "plans.json").write_text(json.dumps(plans, indent=2) + "\n")


@dataclass(frozen=True)
class Cutter:
    """Where everything lies that cuts checkpoints out of one model.

    Only what the methods need is read: lop a predictor, knapsack a profile.
    """

    model_path: str
    scores_dir: Path
    score: str
    compensate: bool = False
    predictor_path: Path | None = None
    profile_path: Path | None = None

    def ready(self, methods: Sequence[str]) -> Callable[[str, float, Path], Plan]:
        """Load all of it; returns what cuts by method and ratio to a directory.

        Raises LopError when something is missing, broken, or made for another model.
        """
        predictor = profile = None
        if "lop" in methods and self.predictor_path:
            predictor = Predictor.from_pretrained(self.predictor_path)
        if "knapsack" in methods and self.profile_path:
            profile = Profile.load(self.profile_path)
        kit = Kit(self.score, self.compensate, predictor, profile)
        chosen = {name: method(name, kit) for name in methods}
        model, processor = load(self.model_path), load_processor(self.model_path)
        name_of_model = fingerprint(model)
        if predictor:
            predictor.check_fits(ffn_widths(model), name_of_model)
        scores = load_all_scores(self.scores_dir, name_of_model)

        def cut(name: str, ratio: float, out: Path) -> Plan:
            which = chosen[name]
            return prune_checkpoint(
                model, processor, self.model_path, which, name, ratio, scores, out
            )

        return cut


def compare(
    out: Path,
    cutter: Cutter,
    methods: Sequence[str],
    ratios: Sequence[float],
    samples_path: Path,
    batch_size: int = 64,
    workers: int = 1,
) -> str:
    """Cut and evaluate every (method, ratio) and write the tables; returns comparison.md's text.

    In `out`: pruned/, evaluation/, comparison.csv and comparison.md, in which the first method is
    set against each other one.
    """
    prune_grid(out / "pruned", methods, ratios, cutter)
    places = (cutter.model_path, out / "pruned", samples_path)
    evaluate(out / "evaluation", *places, batch_size, workers=workers)
    compared = Comparison.read(out / "evaluation", out / "pruned")
    page = compared.accuracy_markdown() + "\n"
    if len(methods) > 1:
        title = f"{TITLES[methods[0]]} minus each other, points ± paired standard error:"
        page += f"\n{title}\n\n{differences_markdown(compared.differences(methods[0]))}\n"
    with replacing(out / "comparison.csv") as tmp:
        compared.table.drop(columns=["plan", "kept", "by_category"]).to_csv(tmp, index=False)
    with replacing(out / "comparison.md") as tmp:
        tmp.write_text(page)
    return page


def evaluate(
    out: Path,
    model_path: str,
    pruned_dir: Path,
    samples_path: Path,
    batch_size: int = 64,
    latency_samples: int = 20,
    workers: int = 1,
    each: Each[dict[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Evaluate and measure the dense model and all in `pruned_dir`; answers and metrics.json.

    Returns the metrics by model name; the dense model is called `dense`. Every model gets a
    process of its own, `workers` at a time, unless `each` sees to that.
    """
    models = {"dense": Path(model_path)}
    models |= {path.name: path for path in sorted(pruned_dir.iterdir()) if path.is_dir()}
    options = (samples_path, batch_size, latency_samples)
    each = each or in_processes(workers, "models", ["lop.evaluation"], fresh=True)
    with replacing_dir(out, like="metrics.json") as tmp:
        work = partial(_evaluate_named, tmp, models, options)
        results = each(work, [(name,) for name in models])
        metrics = dict(zip(models, results, strict=True))
        (tmp / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def _evaluate_named(
    out: Path, models: Mapping[str, Path], options: tuple[Any, ...], name: str
) -> dict[str, Any]:
    return evaluate_one(out / name, models[name], *options)


def evaluate_one(
    out: Path | None,
    model_path: str | Path,
    samples_path: Path,
    batch_size: int,
    latency_samples: int,
) -> dict[str, Any]:
    """What one model costs and how it answers; its answers go to `out`.json and `out`.parquet."""
    from lop.evaluation import evaluate as ask
    from lop.evaluation import measure

    footprint = measure(model_path, samples_path, latency_samples)
    result = ask(model_path, samples_path, batch_size)
    if out:
        result.save(out)
    return result.summary() | footprint.summary()


def report(out: Path, evaluation: Path, pruned: Path, search_dir: Path, training: Path) -> None:
    """Write report.md with plots and tables to `out`, and its numbers to `<out>.json`."""
    from lop.report import write_report

    with replacing_dir(out, like="report.md") as tmp:
        metrics = write_report(evaluation, pruned, search_dir, training, tmp)
    with replacing(out.with_suffix(".json")) as tmp:
        tmp.write_text(json.dumps(metrics, indent=2) + "\n")
