"""The commands: each function runs a step and prints its result.

Steps are imported inside the functions: torch takes seconds to import, and `lop --help` does not
need it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from lop.cli import options as given
from lop.cli import shared
from lop.settings.params import Evaluate, Space

LATENCY_SAMPLES = Evaluate().latency_samples


def learn(o: given.Learn) -> None:
    from lop.settings.learning import Learning
    from lop.steps import kits, learning

    settings = o.model_dump(include=set(Learning.model_fields))
    found = learning.learn(o.model, o.samples, o.out, **settings)
    if o.registers:
        from lop import tracking

        with tracking.run("learn", {"model": o.model, **settings}, {}) as run:
            run.register_kit(o.out)
    print(kits.described(found))
    if found.figures:
        print(f"{found.figures.sentence()}\n\n{found.figures.markdown()}")


def prepare(o: given.Prepare) -> None:
    from lop.data.prepare import PURPOSES
    from lop.steps import preparing

    sizes = o.model_dump(include=set(PURPOSES))
    preparing.prepare(o.out, o.source, o.seed, sizes, o.window, o.model, o.forms)
    print(f"{o.out}: " + ", ".join(f"{size} {name}" for name, size in sizes.items()))


def importance(o: given.Importance) -> None:
    from lop.steps import scoring

    judging = (o.reward, o.ratios, o.reward_samples)
    space = o.model_dump(include=set(Space.model_fields))
    found = scoring.importance(o.out, o.model, o.samples, o.batch_size, *judging, **space)
    print(f"{o.out}: {', '.join(sorted(path.stem for path in o.out.iterdir()))}")
    if found:
        print(found)


def profile(o: given.Profile) -> None:
    from lop.steps import searching

    quantizing = o.model_dump(include={"bits", "group", "others"})
    how = (o.shares, o.compensate, o.reward, o.batch_size)
    searching.profile(o.out, *_judging(o), *how, **quantizing)
    print(o.out)


def latency(o: given.Latency) -> None:
    from lop.steps import timing

    request = (o.prompt, o.batch, o.generated)
    found = timing.latency(o.out, o.model, request, o.repeats, o.device, o.dtype)
    prompt, after = found.parts(found.space.dense)
    print(f"{o.out}: {found.machine}; dense {prompt:.1f} ms for the prompt, {after:.1f} after it")


def search(o: given.Search) -> None:
    from lop.search.shards import read_search
    from lop.steps import searching

    settings = {"searcher": o.searcher, "simulations": o.simulations}
    searching.search(
        o.out, *_judging(o), o.target, o.seed, settings,
        start=_start(o.profile), profile_path=o.profile,
        compensate=o.compensate, reward=o.reward, batch_size=o.batch_size,
        parts=o.parts, hold_out=o.hold_out, spacing=o.spacing,
    )  # fmt: skip
    for key, rows in read_search(o.out).groupby(["target", "seed"]):
        complete = rows[rows["share"] == 1]  # plans judged on all samples of the search
        best, first = complete["reward"].max(), complete["reward"].iloc[0]
        line = f"target {key[0]:g} seed {key[1]}: reward {best:.4f} (began at {first:.4f})"
        if len(checked := rows.dropna(subset="gain")):
            row = checked.loc[checked["gain"].idxmax()]
            line += f"; on held-out samples {row['gain']:+.4f} ± {row['gain_error']:.4f}"
        print(line)


def _judging(o: shared.OfJudging) -> tuple[str, Path, Path, str]:
    return o.model, o.samples, o.scores, o.score


def samples(o: given.Samples) -> None:
    from lop.search.shards import list_searches

    table = list_searches(o.search)
    if o.as_json:
        print(table.to_json(orient="records"))
        return
    table["current"] = table["current"].map({True: "current", False: "kept"})
    formats = dict.fromkeys(("began", "best"), "{:.4f}".format) | {"target": "{:g}".format}
    print(table.rename(columns={"current": ""}).to_string(index=False, formatters=formats))
    plans = table["plans"].sum()
    print(f"{len(table)} searches, {plans} plans; kept: other settings, not used for training")


def _start(profile: Path | None) -> str:
    return "knapsack" if profile else "uniform"


def train(o: given.Train) -> None:
    from lop.steps import training

    curve = Path(f"{o.out}-training")
    how = ({"sure": o.sure}, {"kind": o.kind}, {"epochs": o.epochs, "smooth": o.smooth})
    paths = (o.out, curve, o.search, o.scores)
    metrics, _ = training.train(*paths, o.seed, *how, _start(o.profile), o.profile)
    print(f"{o.out}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))


def recover(o: given.Recover) -> None:
    from lop.settings import Recovery
    from lop.steps import pruning, recovering

    paths: Any = {"predictor_path": o.predictor, "profile_path": o.profile}
    cutter = pruning.cutter_of(o.model, o.kit, o.scores, o.score, o.compensate, **paths)
    settings = Recovery(**o.model_dump(include=set(Recovery.model_fields)))
    curve = Path(f"{o.out}-training")
    found = recovering.recover(o.out, curve, o.samples, cutter, settings, o.apart)
    print(f"{o.out}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()))


def kit(o: given.Kit) -> None:
    from lop.steps import kits

    print(kits.gather(o.out, **o.model_dump(exclude={"out"})))


def pack(o: given.Pack) -> None:
    from lop.steps import elastic
    from lop.steps.pruning import kit_at

    elastic.pack(o.model, kit_at(o.kit), o.out)
    print(f"{o.out}: {o.model}, its units in order of importance; the kit is in {o.out}/kit")


def predict(o: given.Predict) -> None:
    from lop.predictor import Predictor
    from lop.steps.pruning import kit_at

    kit = kit_at(o.kit) if o.kit else None
    path = kit.predictor_path if kit else o.predictor
    assert path  # the options require a kit or a predictor
    found = Predictor.from_pretrained(path)
    compensate = o.compensate or bool(kit and kit.by.compensate)
    plan, whole = found.plan(o.ratio), None
    if o.model:
        from lop.models.costs import parameters
        from lop.models.stored import Stored

        source = Stored(o.model)
        space = found.config.space
        found.check_fits(source.space(space.scope), source.fingerprint, sibling=True)
        whole = source.parameters, int(parameters(source, space, compensate).of(plan))
    if o.as_json:
        values = {"ratio": o.ratio, "ratios": plan.ratios, "kept": plan.kept}
        if whole:
            values |= {"parameters": whole[1], "reduction": 1 - whole[1] / whole[0]}
        print(json.dumps(values))
        return
    space = plan.space
    for layer, kind, units, kept in zip(
        space.layers, space.kinds, space.units, plan.kept, strict=True
    ):
        of = f"keeps {kept:6d} of {units:6d}"
        print(f"layer {layer:3d} {kind:9s} {of}  pruned {1 - kept / units:6.1%}")
    print(
        f"{space.scope}: {plan.parameters:,} of {space.total:,} parameters, {plan.ratio:.1%} less"
    )
    if whole:
        print(_smaller(*whole))
    else:
        print(f"a share of {space.scope}; give --model for the share of the whole model")


def prune(o: given.Prune) -> None:
    from lop.files import read_json
    from lop.steps import padding, pruning

    quantizing = o.model_dump(include={"bits", "group", "others"})
    cutter = replace(_cutter(o), **quantizing)
    ratio, plan = _resolve_budget(cutter, o, o.method)
    if o.latency_profile and o.format != "padded":
        timed = cutter.latency
        before, after = timed.of(cutter.space.dense), timed.of(plan)
        print(f"latency {before:.1f} -> {after:.1f} ms predicted, on {timed.machine}")
    if o.format == "padded":
        _print_padding(padding.padded_offers(cutter, o.method, ratio))
    pruning.prune_one(o.out, o.method, ratio, cutter, plan)
    record = read_json(o.out / "pruning.json")
    dense, small, stored = (
        record[key] for key in ("dense_parameters", "parameters", "stored_parameters")
    )
    print(
        f"{o.out}: {ratio:.1%} of {cutter.space.scope} pruned, "
        f"{_smaller(dense, small)}, "
        f"{record['dense_bytes'] / 1e6:,.2f} -> {record['bytes'] / 1e6:,.2f} MB"
    )
    if bits := record.get("bits"):
        print(f"bits a weight: {_bits_of(cutter.space, bits)}")
    if stored != small:
        print(f"padded with zeros to {stored:,} parameters ({1 - stored / dense:.1%} smaller)")


def _bits_of(space: Any, bits: dict[str, Any]) -> str:
    """A plan's bits in one line: counts of sites by kind and bits, then the other tensors."""
    counted = Counter(zip(space.kinds, bits["sites"], strict=True))
    each = [f"{n} in {count} {kind}" for (kind, n), count in sorted(counted.items())]
    return ", ".join([*each, *(f"{n} in {name}" for name, n in bits["others"])])


def _resolve_budget(cutter: Any, o: shared.Budgeted, method: str = "lop") -> tuple[float, Any]:
    """The ratio and plan for the given budget; prints the ratio of a target that is not one."""
    from lop.steps.kits import BUDGETS, meeting

    budget = o.model_dump(include=set(BUDGETS))
    ratio, plan = meeting(cutter, budget, method)
    if o.ratio is None:
        ((kind, target),) = (item for item in budget.items() if item[1] is not None)
        print(f"{kind.replace('_', ' ')} {target}: ratio {ratio:.4f}")
    return ratio, plan


def _print_padding(offers: list[Any]) -> None:
    """Print what this plan saves if padded, and what narrower limits on FFN widths would save."""
    chosen, *others = offers
    print(
        f"padded to its widest FFN, {chosen.widest:.0%} of the neurons, this plan saves "
        f"{chosen.saves:.1%} of the whole model (per_layer: {1 - chosen.kept / chosen.dense:.1%})",
        flush=True,
    )
    for offer in others:
        loss = "" if offer.loss is None else f", {offer.loss:.4f} of the reward by the profile"
        print(f"  --widest {offer.widest:.2g} would save {offer.saves:.1%}{loss}", flush=True)


def _smaller(dense: int, small: int) -> str:
    return f"{dense:,} -> {small:,} parameters ({1 - small / dense:.1%} of the whole model)"


def export(o: given.Export) -> None:
    from lop.engines import gguf

    written = gguf.export(o.model, o.out, o.dtype)
    padded = ", padded with zeros to the widest site" if written["padded"] else ""
    size = written["bytes"] / 1e6
    print(f"{o.out}: {size:,.2f} MB, llama.cpp's architecture {written['architecture']}{padded}")


def evaluate(o: given.Evaluate) -> None:
    from contextlib import nullcontext

    from lop.evaluation.tasks.benchmarks import locate
    from lop.steps import evaluating, kits, pruning

    tasks: list[Any] = o.tasks
    sources = locate(tasks, o.samples)
    checkpoint: Any = nullcontext(o.model)
    if o.kit:
        cutter = pruning.Cutter.of_kit(o.model, pruning.kit_at(o.kit))
        checkpoint = kits.cut_for_a_while(cutter, *_resolve_budget(cutter, o))
    with checkpoint as model:
        how = (o.samples, o.batch_size, LATENCY_SAMPLES, sources)
        found = evaluating.evaluate_one(o.out, model, *how)
    for name, task in found["tasks"].items():
        print(f"{name}, {task['count']} questions")
        for metric, figure in task["metrics"].items():
            error = "" if figure["stderr"] is None else f" ± {figure['stderr']:.4f}"
            print(f"  {metric} {figure['value']:.4f}{error}")
        for category, accuracy in task["by_category"].items():
            print(f"    {category}: {accuracy:.4f}")
    if o.samples:
        print(f"parameters {found['parameters']:,}, {found['disk_bytes'] / 1e6:.2f} MB on disk")
        print(f"latency {found['latency_ms']:.1f} ms a sample of {found['tokens']} tokens")


def compare(o: given.Compare) -> None:
    from lop.steps import comparing

    grid = (o.methods, o.ratios, o.samples, o.batch_size, o.workers, o.keep)
    print(comparing.compare(o.out, _cutter(o), *grid))


def _cutter(o: shared.Cutting) -> Any:
    from lop.steps import pruning

    paths = {
        "predictor_path": o.predictor, "profile_path": o.profile, "latency_path": o.latency_profile,
        "recovered_path": o.recovered,
    }  # fmt: skip
    how = o.model_dump(include={"format", "widest", "elsewhere", "sibling"})
    return pruning.cutter_of(o.model, o.kit, o.scores, o.score, o.compensate, **paths, **how)


def report(o: given.Report) -> None:
    from lop.steps import reporting

    reporting.report(o.out, o.evaluation, o.pruned, o.search, o.training, o.samples, o.scores)
    print(f"{o.out}/report.md, {o.out}/report.html")


def diff(o: given.Diff) -> None:
    from lop.steps import comparing

    print(comparing.diff(o.a, o.b, o.task, o.evaluation, o.out, o.samples, o.limit))
    if o.out:
        print(f"\n{o.out}")


def serve(o: given.Serve) -> None:
    from lop.serving import serve as run

    run(**o.model_dump())


def track(o: given.Track) -> None:
    from lop import tracking

    logged = tracking.replay()
    print(f"{logged} {'run' if logged == 1 else 'runs'} logged")


def rollback(o: given.Rollback) -> None:
    from lop import tracking

    before, now = tracking.rollback(o.reason, o.name)
    print(f"{o.name}: the champion is version {now} again, instead of version {before}")
