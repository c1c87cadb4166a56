"""`lop …`: the pipeline's steps by hand, on any model directory."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lop.errors import LopError

METHODS = "knapsack, uniform, random, magnitude, wanda_sp, flap"

EPILOG = """\
a whole run by hand:
  lop prepare    --source DIR --out samples
  lop importance --model M --samples samples/calibration.parquet --out scores
  lop profile    --model M --samples samples/reward.parquet --scores scores
                 --out profile.parquet
  lop search     --model M --samples samples/reward.parquet --target 0.2 0.5
                 --scores scores --profile profile.parquet --out search
  lop samples    --search search
  lop train      --search search --scores scores/flap.safetensors --out predictor
  lop predict    --predictor predictor --ratio 0.37
  lop prune      --model M --predictor predictor --scores scores --ratio 0.37 --out small
  lop evaluate   --model small --samples samples/benchmark.parquet
  lop compare    --model M --scores scores --predictor predictor --profile profile.parquet
                 --methods lop knapsack flap --ratios 0.2 0.5
                 --samples samples/benchmark.parquet --out comparison
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; bad input ends in one line on standard error and exit code 2."""
    args = vars(_parser().parse_args(argv))
    command: Callable[..., None] = args.pop("command")
    try:
        command(**args)
    except LopError as error:
        print(f"lop: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


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


def predict(predictor: Path, ratio: float, as_json: bool) -> None:
    from lop.predictor import Predictor

    plan = Predictor.from_pretrained(predictor).plan(ratio)
    if as_json:
        print(json.dumps({"ratio": ratio, "ratios": plan.ratios, "kept": plan.kept}))
        return
    for layer, (width, kept) in enumerate(zip(plan.widths, plan.kept, strict=True)):
        print(f"layer {layer:3d}  keeps {kept:6d} of {width:6d}  pruned {1 - kept / width:6.1%}")
    print(
        f"total      keeps {sum(plan.kept):6d} of {sum(plan.widths):6d}  pruned {plan.ratio:6.1%}"
    )


def prune(method: str, ratio: float, out: Path, **places: Any) -> None:
    from lop import steps
    from lop.models.checkpoint import read_json

    steps.prune_one(out, method, ratio, _cutter(**places))
    record = read_json(out / "pruning.json")
    dense, small = record["dense_parameters"], record["parameters"]
    print(
        f"{out}: {ratio:.1%} of FFN neurons pruned, "
        f"{dense:,} -> {small:,} parameters ({1 - small / dense:.1%} of the whole model)"
    )


def evaluate(model: str, samples: Path, out: Path | None, batch_size: int) -> None:
    from lop import steps

    found = steps.evaluate_one(out, model, samples, batch_size, latency_samples=20)
    error = "" if found["stderr"] is None else f" ± {found['stderr']:.4f}"
    print(f"accuracy {found['accuracy']:.4f}{error} on {found['count']} samples")
    for category, accuracy in found["by_category"].items():
        print(f"  {category}: {accuracy:.4f}")
    print(f"parameters {found['parameters']:,}, {found['disk_bytes'] / 1e6:.2f} MB on disk")
    print(f"latency {found['latency_ms']:.1f} ms a sample of {found['tokens']} tokens")


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


def _cutter(
    model: str,
    scores: Path,
    score: str,
    compensate: bool,
    predictor: Path | None,
    profile: Path | None,
) -> Any:
    from lop import steps

    return steps.Cutter(model, scores, score, compensate, predictor, profile)


def report(evaluation: Path, pruned: Path, search: Path, training: Path, out: Path) -> None:
    from lop import steps

    steps.report(out, evaluation, pruned, search, training)
    print(f"{out}/report.md")


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="lop",
        description="Learn once how to prune a multimodal LLM, then cut any budget out of it.",
        epilog=EPILOG,
        formatter_class=raw,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(command: Callable[..., None], text: str) -> Callable[..., argparse.Action]:
        sub = commands.add_parser(command.__name__, help=text, description=text)
        sub.set_defaults(command=command)
        return sub.add_argument

    arg = add(prepare, "draw calibration, reward, validation and benchmark samples from a source")
    arg("--source", required=True, help="folder or .parquet/.csv/.jsonl; or `reference`")
    arg("--out", type=Path, required=True, help="directory to write")
    arg("--seed", type=int, default=0)
    sizes = {"calibration": 500, "reward": 200, "validation": 500, "benchmark": 1500}
    for name, size in sizes.items():
        arg(f"--{name}", type=int, default=size, metavar="N", help=f"samples (default {size})")

    arg = add(importance, "score every FFN neuron of a model's decoder on calibration samples")
    _add_model(arg)
    arg("--samples", type=Path, required=True, help="calibration samples (Parquet)")
    arg("--out", type=Path, required=True, help="directory for the scores")
    _add_batch_size(arg)

    arg = add(profile, "measure what each layer alone loses at a grid of widths")
    _add_model(arg)
    arg("--samples", type=Path, required=True, help="reward samples (Parquet)")
    _add_scores(arg)
    arg("--out", type=Path, required=True, help="file for the profile (Parquet)")
    _add_reward(arg)

    arg = add(search, "search good plans at target ratios; finished searches are kept")
    _add_model(arg)
    arg("--samples", type=Path, required=True, help="reward samples (Parquet)")
    _add_scores(arg)
    arg("--out", type=Path, required=True, help="directory for the search samples")
    arg("--target", type=float, nargs="+", required=True, help="pruning ratios, in [0, 1)")
    arg("--seed", type=int, nargs="+", default=[0])
    arg("--profile", type=Path, help="start from the knapsack's plans, not from uniform ones")
    arg("--searcher", default="mcts", help="mcts (default), evolution, random, uniform or knapsack")
    arg("--simulations", type=int, default=100, help="plans evaluated a search (default 100)")
    _add_reward(arg)

    arg = add(samples, "list what was searched: targets, seeds, counts, best rewards")
    arg("--search", type=Path, required=True, help="directory of search samples")
    arg("--json", dest="as_json", action="store_true", help="one line of JSON")

    arg = add(train, "train a predictor on search samples")
    arg("--search", type=Path, required=True, help="directory of search samples")
    arg("--scores", type=Path, required=True, help="the score that the search used")
    arg("--out", type=Path, required=True, help="directory for the predictor")
    arg("--top", type=int, default=10, help="best plans a target to learn from (default 10)")
    arg("--per-seed", action="store_true", help="the best of each seed's search, not of all")
    arg("--weight", default="equal", help="equal (default), or reward: better plans count more")
    arg("--smooth", type=int, default=0, help="budgets mixed between neighbouring targets")
    arg("--profile", type=Path, help="learn how plans differ from the knapsack's, not uniform ones")
    arg("--kind", default="transformer", help="transformer (default), bilstm or mlp")
    arg("--epochs", type=int, default=200)
    arg("--seed", type=int, default=0)

    arg = add(predict, "print the plan for a pruning ratio")
    arg("--predictor", type=Path, required=True, help="predictor directory")
    _add_ratio(arg)
    arg("--json", dest="as_json", action="store_true", help="one line of JSON")

    arg = add(prune, "cut a checkpoint of a given pruning ratio out of a model")
    _add_cutter(arg)
    _add_ratio(arg)
    arg("--method", default="lop", help=f"lop (default) or one of {METHODS}")
    arg("--out", type=Path, required=True, help="directory for the smaller checkpoint")

    arg = add(evaluate, "ask a dense or pruned model a benchmark, and measure it")
    _add_model(arg)
    arg("--samples", type=Path, required=True, help="benchmark samples (Parquet)")
    arg("--out", type=Path, help="also write <out>.json and <out>.parquet with every answer")
    _add_batch_size(arg)

    arg = add(compare, "cut and evaluate several methods at several ratios, and write the table")
    _add_cutter(arg)
    arg("--methods", nargs="+", required=True, help=f"lop, {METHODS}")
    arg("--ratios", type=float, nargs="+", required=True, help="pruning ratios, in [0, 1)")
    arg("--samples", type=Path, required=True, help="benchmark samples (Parquet)")
    arg("--out", type=Path, required=True, help="directory for checkpoints, answers and tables")
    arg("--workers", type=int, default=1, help="models evaluated at once (default 1)")
    _add_batch_size(arg)

    arg = add(report, "write the report of a pipeline run")
    for name in ("evaluation", "pruned", "search", "training"):
        arg(f"--{name}", type=Path, default=Path("data") / name, help=f"default data/{name}")
    arg("--out", type=Path, default=Path("data/report"), help="default data/report")
    return parser


def _add_model(arg: Callable[..., argparse.Action]) -> None:
    arg("--model", required=True, help="Hugging Face model directory, dense or pruned")


def _add_cutter(arg: Callable[..., argparse.Action]) -> None:
    _add_model(arg)
    _add_scores(arg)
    arg("--predictor", type=Path, help="predictor directory, for method lop")
    arg("--profile", type=Path, help="profile, for method knapsack")


def _add_reward(arg: Callable[..., argparse.Action]) -> None:
    arg("--reward", default="loglik", help="loglik (default) or accuracy")
    _add_batch_size(arg)


def _add_ratio(arg: Callable[..., argparse.Action]) -> None:
    arg("--ratio", type=float, required=True, help="share of FFN neurons to remove, in [0, 1)")


def _add_scores(arg: Callable[..., argparse.Action]) -> None:
    arg("--scores", type=Path, required=True, help="directory of scores")
    arg("--score", default="flap", help="which of them (default flap; the paper's: activation_l2)")
    arg("--compensate", action="store_true", help="restore the pruned neurons' mean output")


def _add_batch_size(arg: Callable[..., argparse.Action]) -> None:
    arg("--batch-size", type=int, default=64, help="default 64")


if __name__ == "__main__":
    sys.exit(main())
