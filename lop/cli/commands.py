"""What each command does: it calls a step and prints what came out.

Steps are imported inside: torch takes seconds to import, and `lop --help` should not wait for it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lop.errors import LopError


def prepare(source: str, out: Path, seed: int, **sizes: int) -> None:
    from lop import steps

    steps.prepare(out, source, seed, **sizes)
    print(f"{out}: " + ", ".join(f"{size} {name}" for name, size in sizes.items()))


def importance(model: str, samples: Path, out: Path, batch_size: int) -> None:
    from lop import steps

    steps.importance(out, model, samples, batch_size)
    print(f"{out}: {', '.join(sorted(path.stem for path in out.iterdir()))}")


def profile(
    model: str,
    samples: Path,
    scores: Path,
    score: str,
    compensate: bool,
    out: Path,
    reward: str,
    batch_size: int,
) -> None:
    from lop import steps

    steps.profile(
        out, model, samples, scores, score,
        compensate=compensate, reward=reward, batch_size=batch_size,
    )  # fmt: skip
    print(out)


def search(
    model: str,
    samples: Path,
    scores: Path,
    score: str,
    compensate: bool,
    profile: Path | None,
    out: Path,
    target: list[float],
    seed: list[int],
    searcher: str,
    simulations: int,
    reward: str,
    batch_size: int,
) -> None:
    from lop import steps
    from lop.search import read_search

    settings = {"searcher": searcher, "simulations": simulations}
    options = (settings, _begin(profile), profile, compensate, reward, batch_size)
    steps.search(out, model, samples, scores, score, target, seed, *options)
    for key, rows in read_search(out).groupby(["target", "seed"]):
        best, first = rows["reward"].max(), rows["reward"].iloc[0]
        print(f"target {key[0]:g} seed {key[1]}: reward {best:.4f} (began at {first:.4f})")


def samples(search: Path, as_json: bool) -> None:
    from lop.search import list_searches

    table = list_searches(search)
    if as_json:
        print(table.to_json(orient="records"))
        return
    table["current"] = table["current"].map({True: "current", False: "kept"})
    formats = dict.fromkeys(("began", "best"), "{:.4f}".format) | {"target": "{:g}".format}
    print(table.rename(columns={"current": ""}).to_string(index=False, formatters=formats))
    plans = table["plans"].sum()
    print(f"{len(table)} searches, {plans} plans; kept: of other settings, not trained on")


def _begin(profile: Path | None) -> str:
    return "knapsack" if profile else "uniform"


def train(
    search: Path,
    scores: Path,
    out: Path,
    kind: str,
    epochs: int,
    smooth: int,
    seed: int,
    profile: Path | None,
    **samples: Any,
) -> None:
    from lop import steps

    curve = out.with_name(out.name + "-training")
    options = (samples, {"kind": kind}, {"epochs": epochs, "smooth": smooth})
    metrics, _ = steps.train(out, curve, search, scores, seed, *options, _begin(profile), profile)
    print(f"{out}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))


def predict(predictor: Path, model: str | None, ratio: float, as_json: bool) -> None:
    from lop.predictor import Predictor

    found = Predictor.from_pretrained(predictor)
    plan, whole = found.plan(ratio), None
    if model:
        from lop.models.stored import Stored
        from lop.sizes import parameters_of

        source = Stored(model)
        found.check_fits(source.widths, source.fingerprint, sibling=True)
        whole = source.parameters, parameters_of(source)(plan)
    if as_json:
        said = {"ratio": ratio, "ratios": plan.ratios, "kept": plan.kept}
        if whole:
            said |= {"parameters": whole[1], "reduction": 1 - whole[1] / whole[0]}
        print(json.dumps(said))
        return
    for layer, (width, kept) in enumerate(zip(plan.widths, plan.kept, strict=True)):
        print(f"layer {layer:3d}  keeps {kept:6d} of {width:6d}  pruned {1 - kept / width:6.1%}")
    print(
        f"total      keeps {sum(plan.kept):6d} of {sum(plan.widths):6d}  pruned {plan.ratio:6.1%}"
    )
    if whole:
        print(_smaller(*whole))
    else:
        print("a share of the FFN neurons; --model tells that of the whole model")


def prune(
    method: str,
    ratio: float | None,
    params: str | None,
    size: str | None,
    flops_per_token: str | None,
    out: Path,
    **places: Any,
) -> None:
    from lop import steps
    from lop.models.checkpoint import read_json

    cutter = _cutter(**places)
    targets = {"params": params, "size": size, "flops_per_token": flops_per_token}
    for kind, target in targets.items():
        if target is not None:
            ratio = cutter.ratio_for(kind, target)
            print(f"{kind.replace('_', ' ')} {target}: ratio {ratio:.4f}")
    assert ratio is not None  # the parser asks for one of them
    steps.prune_one(out, method, ratio, cutter)
    record = read_json(out / "pruning.json")
    dense, small, stored = (
        record[key] for key in ("dense_parameters", "parameters", "stored_parameters")
    )
    print(
        f"{out}: {ratio:.1%} of FFN neurons pruned, "
        f"{_smaller(dense, small)}, "
        f"{record['dense_bytes'] / 1e6:,.2f} -> {record['bytes'] / 1e6:,.2f} MB"
    )
    if stored != small:
        print(f"padded with zeros to {stored:,} parameters ({1 - stored / dense:.1%} smaller)")


def _smaller(dense: int, small: int) -> str:
    return f"{dense:,} -> {small:,} parameters ({1 - small / dense:.1%} of the whole model)"


def evaluate(
    model: str, samples: Path | None, tasks: list[str], out: Path | None, batch_size: int
) -> None:
    from lop import steps
    from lop.tasks.benchmarks import locate

    places = locate([_task(text) for text in tasks], samples)
    found = steps.evaluate_one(out, model, samples, batch_size, 20, places)
    for name, task in found["tasks"].items():
        print(f"{name}, {task['count']} questions")
        for metric, figure in task["metrics"].items():
            error = "" if figure["stderr"] is None else f" ± {figure['stderr']:.4f}"
            print(f"  {metric} {figure['value']:.4f}{error}")
        for category, accuracy in task["by_category"].items():
            print(f"    {category}: {accuracy:.4f}")
    if samples:
        print(f"parameters {found['parameters']:,}, {found['disk_bytes'] / 1e6:.2f} MB on disk")
        print(f"latency {found['latency_ms']:.1f} ms a sample of {found['tokens']} tokens")


def _task(text: str) -> Any:
    """`name`, or `name=data`, as a task of `lop.tasks.benchmarks.locate`."""
    name, given, data = text.partition("=")
    return {name: data} if given else name


def compare(
    methods: list[str],
    ratios: list[float],
    samples: Path,
    out: Path,
    batch_size: int,
    workers: int,
    **places: Any,
) -> None:
    from lop import steps

    print(steps.compare(out, _cutter(**places), methods, ratios, samples, batch_size, workers))


def _cutter(**places: Any) -> Any:
    from lop import steps

    renamed = {
        "model": "model_path",
        "scores": "scores_dir",
        "predictor": "predictor_path",
        "profile": "profile_path",
    }
    return steps.Cutter(**{renamed.get(name, name): value for name, value in places.items()})


def report(
    evaluation: Path, pruned: Path, search: Path, training: Path, samples: Path, out: Path
) -> None:
    from lop import steps

    steps.report(out, evaluation, pruned, search, training, samples)
    print(f"{out}/report.md, {out}/report.html")


def diff(
    a: str, b: str, task: str, evaluation: Path, samples: Path | None, out: Path | None, limit: int
) -> None:
    from lop import steps

    print(steps.diff(a, b, task, evaluation, out, samples, limit))
    if out:
        print(f"\n{out}")


def serve(**options: Any) -> None:
    try:
        from lop.serving import serve as run
    except ModuleNotFoundError as error:
        raise LopError(f"{error}; install it with pip install 'lop[serve]'") from error
    run(**options)


def track() -> None:
    from lop import tracking

    told = tracking.replay()
    print(f"{told} {'run' if told == 1 else 'runs'} logged")


def rollback(name: str, reason: str) -> None:
    from lop import tracking

    was, now = tracking.rollback(reason, name)
    print(f"{name}: champion is version {now} again, version {was} was")
