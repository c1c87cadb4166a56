"""What the command line takes: commands, arguments, defaults and help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from lop.cli import commands as do

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
  lop predict    --predictor predictor --model M --ratio 0.37
  lop prune      --model M --predictor predictor --scores scores --ratio 0.37 --out small
  lop evaluate   --model small --samples samples/benchmark.parquet
  lop compare    --model M --scores scores --predictor predictor --profile profile.parquet
                 --methods lop knapsack flap --ratios 0.2 0.5
                 --samples samples/benchmark.parquet --out comparison
  lop serve      --model M --scores scores --predictor predictor --out served
"""


def build_parser() -> argparse.ArgumentParser:
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

    arg = add(do.prepare, "draw calibration, reward, validation and benchmark samples")
    arg("--source", required=True, help="folder or .parquet/.csv/.jsonl; or `reference`")
    arg("--out", type=Path, required=True, help="directory to write")
    arg("--seed", type=int, default=0)
    sizes = {"calibration": 500, "reward": 200, "validation": 500, "benchmark": 1500}
    for name, size in sizes.items():
        arg(f"--{name}", type=int, default=size, metavar="N", help=f"samples (default {size})")

    arg = add(do.importance, "score every FFN neuron of a model's decoder on calibration samples")
    _add_model(arg)
    arg("--samples", type=Path, required=True, help="calibration samples (Parquet)")
    arg("--out", type=Path, required=True, help="directory for the scores")
    _add_batch_size(arg)

    arg = add(do.profile, "measure what each layer alone loses at a grid of widths")
    _add_model(arg)
    arg("--samples", type=Path, required=True, help="reward samples (Parquet)")
    _add_scores(arg)
    arg("--out", type=Path, required=True, help="file for the profile (Parquet)")
    _add_reward(arg)

    arg = add(do.search, "search good plans at target ratios; finished searches are kept")
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

    arg = add(do.samples, "list what was searched: targets, seeds, counts, best rewards")
    arg("--search", type=Path, required=True, help="directory of search samples")
    arg("--json", dest="as_json", action="store_true", help="one line of JSON")

    arg = add(do.train, "train a predictor on search samples")
    arg("--search", type=Path, required=True, help="directory of search samples")
    arg("--scores", type=Path, required=True, help="the score that the search used")
    arg("--out", type=Path, required=True, help="directory for the predictor")
    arg("--top", type=int, default=5, help="best plans of a search to learn from (default 5)")
    arg(
        "--together",
        dest="per_seed",
        action="store_false",
        help="of each target, not of each search",
    )
    arg("--weight", default="equal", help="equal (default), or reward: better plans count more")
    arg("--smooth", type=int, default=0, help="budgets mixed between neighbouring targets")
    arg("--profile", type=Path, help="learn how plans differ from the knapsack's, not uniform ones")
    arg("--kind", default="transformer", help="transformer (default), bilstm or mlp")
    arg("--epochs", type=int, default=200)
    arg("--seed", type=int, default=0)

    arg = add(do.predict, "print the plan for a pruning ratio")
    arg("--predictor", type=Path, required=True, help="predictor directory")
    arg("--model", help="the model it is for: tells how much smaller the whole of it gets")
    arg("--ratio", type=float, required=True, help="share of FFN neurons to remove, in [0, 1)")
    arg("--json", dest="as_json", action="store_true", help="one line of JSON")

    arg = add(do.prune, "cut a checkpoint of a given pruning ratio out of a model")
    _add_cutter(arg)
    _add_target(commands.choices["prune"])
    arg("--method", default="lop", help=f"lop (default) or one of {METHODS}")
    arg("--out", type=Path, required=True, help="directory for the smaller checkpoint")

    arg = add(do.evaluate, "ask a dense or pruned model benchmarks, and measure it")
    _add_model(arg)
    arg("--samples", type=Path, help="samples (Parquet): lop_vqa's questions, and to time it on")
    text = "lop_vqa (default), easyvqa_mme, …, or mme, mmbench, mmmu_val, pope; name=PATH: its data"
    arg("--tasks", nargs="+", default=["lop_vqa"], metavar="TASK", help=text)
    arg("--out", type=Path, help="directory to keep answers and figures in; finished ones stay")
    _add_batch_size(arg)

    arg = add(do.compare, "cut and evaluate several methods at several ratios, and write the table")
    _add_cutter(arg)
    arg("--methods", nargs="+", required=True, help=f"lop, {METHODS}")
    arg("--ratios", type=float, nargs="+", required=True, help="pruning ratios, in [0, 1)")
    arg("--samples", type=Path, required=True, help="benchmark samples (Parquet)")
    arg("--out", type=Path, required=True, help="directory for checkpoints, answers and tables")
    arg("--workers", type=int, default=1, help="models evaluated at once (default 1)")
    _add_batch_size(arg)

    arg = add(do.report, "write the report of a pipeline run")
    for name in ("evaluation", "pruned", "search", "training", "samples"):
        arg(f"--{name}", type=Path, default=Path("data") / name, help=f"default data/{name}")
    arg("--out", type=Path, default=Path("data/report"), help="default data/report")

    arg = add(do.serve, "answer ratios with plans, and cut checkpoints, over HTTP")
    arg("--predictor", required=True, help="predictor directory, or models:/NAME@ALIAS of MLflow")
    _add_model(arg)
    _add_scores(arg)
    arg("--out", type=Path, required=True, help="the one directory that is written to")
    arg("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1)")
    arg("--port", type=int, default=8080, help="default 8080; 0 takes a free one")
    arg("--token-file", type=Path, help="holds the bearer token; else LOP_SERVE_TOKEN does")
    arg("--workers", type=int, default=1, help="checkpoints cut at once (default 1)")
    arg("--queue", type=int, default=8, help="checkpoints that may wait to be cut (default 8)")
    arg("--keep", type=int, default=100, help="checkpoints there may be (default 100)")
    arg("--poll", type=float, default=30, help="seconds between looks at the alias (default 30)")
    arg = add(do.diff, "show which answers of two models differ, with their pictures")
    arg("a", metavar="A", help="a model's name in the evaluation (dense, lop-0.3 …) or its folder")
    arg("b", metavar="B", help="another one")
    arg("--task", default="lop_vqa", help="default lop_vqa")
    arg("--evaluation", type=Path, default=Path("data/evaluation"), help="default data/evaluation")
    arg("--samples", type=Path, help="the task's questions (default: its file in data/samples)")
    arg("--out", type=Path, help="also write an HTML page with questions, pictures and answers")
    arg("--limit", type=int, default=200, help="questions on that page at most (default 200)")
    add(do.track, "log to MLflow what had to wait while it was out of reach")

    arg = add(do.rollback, "give the champion's alias back to the predictor that had it before")
    arg("--name", default="lop-predictor", help="registered model (default lop-predictor)")
    arg("--reason", default="", help="why; kept on the version")
    return parser


def _add_model(arg: Callable[..., argparse.Action]) -> None:
    arg("--model", required=True, help="Hugging Face model directory, dense or pruned")


def _add_cutter(arg: Callable[..., argparse.Action]) -> None:
    _add_model(arg)
    _add_scores(arg)
    arg("--predictor", help="directory or models:/NAME@ALIAS, for method lop")
    arg("--profile", type=Path, help="profile, for method knapsack")
    arg("--format", default="per_layer", help="per_layer (default), or padded for stock loaders")
    arg("--multiple-of", type=int, default=1, metavar="N", help="widths in multiples of N")
    arg("--sibling", action="store_true", help="predictor and scores are of other weights; warn")


def _add_reward(arg: Callable[..., argparse.Action]) -> None:
    arg("--reward", default="loglik", help="loglik (default) or accuracy")
    _add_batch_size(arg)


def _add_target(parser: argparse.ArgumentParser) -> None:
    one = parser.add_mutually_exclusive_group(required=True)
    one.add_argument("--ratio", type=float, help="share of FFN neurons to remove, in [0, 1)")
    one.add_argument("--params", metavar="N", help="or parameters of the whole model: 5.2B")
    one.add_argument("--size", metavar="N", help="or bytes on disk, at its dtype: 9GB, 8.5GiB")
    one.add_argument("--flops-per-token", metavar="N", help="or FLOPs of its language model: 9G")


def _add_scores(arg: Callable[..., argparse.Action]) -> None:
    arg("--scores", type=Path, required=True, help="directory of scores")
    arg("--score", default="flap", help="which of them (default flap; the paper's: activation_l2)")
    arg("--compensate", action="store_true", help="restore the pruned neurons' mean output")


def _add_batch_size(arg: Callable[..., argparse.Action]) -> None:
    arg("--batch-size", type=int, default=64, help="default 64")
