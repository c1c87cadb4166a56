"""The steps around a kit: gather it, measure its plans, cut a model with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from lop.data.clusters import clustered_error
from lop.data.samples import document, read_samples
from lop.errors import LopError
from lop.files import check_dir, temporary_dir
from lop.kit import KIT, Kit
from lop.kit.figures import Figure, Figures
from lop.models.costs import parameters, size
from lop.models.stored import Stored
from lop.plan import Plan
from lop.steps.pruning import Cutter, on_disk, prune_one
from lop.steps.searching import reward_of

BUDGETS = ("ratio", "params", "size", "flops_per_token", "latency")
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # measured, where the predictor reaches them


def gather(
    out: Path,
    scores: Path,
    predictor: str,
    profile: Path | None,
    latency_profile: Path | None,
    score: str,
    compensate: bool | str,
) -> str:
    """Write a kit with `Kit.gather`, the predictor maybe from the registry; returns one line about
    it."""
    parts = (scores, on_disk(predictor), profile, latency_profile)
    return described(Kit.gather(out, *parts, score, compensate))


def described(kit: Kit) -> str:
    """One line about a kit: its sites, score, compensation and range of ratios."""
    restored = "with" if kit.by.compensate else "without"
    space, config = kit.about.space, kit.predictor.config
    return (
        f"{kit.path}: {space.scope} of {len(space.units)} sites, score {kit.by.score} {restored} "
        f"compensation, pruning ratios {config.min_ratio:g} to {config.max_ratio:g}"
    )


def measured(
    kit: Kit, model_path: str, samples_path: Path, reward: str = "loglik", batch_size: int = 100
) -> Figures:
    """Measure the whole model and the kit's plan at each of `RATIOS` on samples.

    No score, search or predictor may have seen the samples. The metric is the accuracy for
    questions, the log-likelihood for texts, or the `reward` itself if it needs no answers. Sizes
    are counted; milliseconds come from the kit's latency profile.
    """
    samples = read_samples(samples_path)
    texts = all(document(row) is not None for row in samples.to_dict("records"))
    metric = ("loglik" if texts else "accuracy") if reward == "loglik" else reward
    predictor, latency = kit.predictor, kit.latency
    source, space = Stored(model_path), kit.about.space
    counted, weighed = (of(source, space, kit.by.compensate) for of in (parameters, size))
    plans = {0.0: space.dense}
    plans |= {ratio: predictor.plan(ratio) for ratio in RATIOS if predictor.reaches(ratio)}
    found: list[Figure] = []
    inputs = (model_path, samples_path, kit.scores_dir, *kit.by, metric, batch_size)
    with reward_of(*inputs) as judge:
        pictures = list(samples["image_id"])
        whole = judge.by_sample(space.dense)
        for ratio, plan in plans.items():
            values = judge.by_sample(plan)
            gone = whole - values
            found.append(
                Figure(
                    ratio,
                    int(counted.of(plan)),
                    int(weighed.of(plan)),
                    float(values.mean()),
                    _error(values, pictures),
                    float(gone.mean()),
                    _error(gone, pictures) if ratio else None,
                    latency.of(plan) if latency else None,
                )
            )
    return Figures(metric, len(samples), str(latency.machine) if latency else None, tuple(found))


def gather_measured(
    out: Path,
    parts: tuple[Path, Path, Path | None, Path | None, str, bool | str],
    judged: tuple[str, Path, str, int],
    settings: Mapping[str, Any] | None = None,
) -> Kit:
    """Write a kit of `parts` (scores, predictor, profile, latency profile, score, compensation)
    with the figures that `measured` returns for `judged` (model, samples, reward, batch size)."""
    check_dir(out, KIT, parts[:4])
    with temporary_dir(out) as tmp:
        found = measured(Kit.gather(tmp / "kit", *parts), *judged)
    return Kit.gather(out, *parts, found, settings)


def _error(values: np.ndarray, pictures: Sequence[object]) -> float | None:
    error = clustered_error(values, pictures)
    return float(error) if np.isfinite(error) else None


def cut(
    kit: str | Path | Kit,
    model: str | Path,
    out: str | Path,
    bits: Sequence[int] = (),
    **budget: Any,
) -> Plan:
    """Prune a model to a budget with a kit's predictor, and write the checkpoint to `out`.

    >>> lop.cut("kit", "my-model", "small", size="9GB")

    The budget is a `ratio` or a target of `lop prune`: `params="5.2B"`, `size="9GB"`,
    `flops_per_token="9G"` or `latency="0.7x"`. With `bits` (4, 8, 16) a size is met by units and
    bits together, if the kit was learned with them. Raises LopError if it cannot be met.
    """
    kit = kit if isinstance(kit, Kit) else Kit.load(kit)
    cutter = Cutter.of_kit(str(model), kit)
    if bits and (sizes := kit.size_predictor):
        of = sizes.config
        cutter = replace(cutter, bits=bits, group=of.group, others=of.others)
    elif bits:
        raise LopError(f"{kit.path}: has not learned bits; `lop learn --bits` makes one that has")
    ratio, plan = meeting(cutter, budget)
    return prune_one(Path(out), "lop", ratio, cutter, plan)


def meeting(cutter: Cutter, budget: Mapping[str, Any], method: str = "lop") -> tuple[float, Plan]:
    """The ratio and plan for a budget: exactly one of `BUDGETS` must not be None."""
    given = {name: value for name, value in budget.items() if value is not None}
    if len(given) != 1 or not set(given) <= set(BUDGETS):
        raise LopError(f"expected one of {', '.join(BUDGETS)}, got {', '.join(given) or 'none'}")
    ((kind, target),) = given.items()
    if kind == "ratio":
        return float(target), cutter.planner(method)(float(target))
    return cutter.meeting(kind, str(target), method)


@contextmanager
def cut_for_a_while(cutter: Cutter, ratio: float, plan: Plan) -> Iterator[str]:
    """Write the checkpoint of a plan to a temporary directory, deleted after the block; yields its
    path."""
    with TemporaryDirectory(prefix="lop-") as folder:
        prune_one(Path(folder) / "checkpoint", "lop", ratio, cutter, plan)
        yield str(Path(folder) / "checkpoint")
