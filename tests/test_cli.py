"""The command line on a real tiny model: the steps by hand, and one clear line for bad input."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from lop.cli import main
from lop.data.samples import write_samples
from lop.evaluation.latency import LatencyProfile
from lop.models.checkpoint import load
from lop.models.costs import COSTS
from lop.models.space import find_space
from lop.models.stored import Stored
from lop.reference import easyvqa, easyvqa_benchmarks


@pytest.fixture
def made(model_dir, samples, tmp_path, capsys):
    """Scores, search samples and a predictor, made by the commands themselves."""
    write_samples(samples, tmp_path / "samples.parquet")
    data = ["--model", str(model_dir), "--samples", str(tmp_path / "samples.parquet")]
    scores = str(tmp_path / "scores" / "flap.safetensors")
    search = ["--scores", str(tmp_path / "scores")]
    steps = [
        ["importance", *data, "--reward", data[-1], "--out", str(tmp_path / "scores")],
        ["profile", *data, *search, "--out", str(tmp_path / "profile.parquet")],
        ["search", *data, *search, "--out", str(tmp_path / "search"), "--target", "0.2", "0.6"]
        + ["--simulations", "6", "--spacing", "0"]
        + ["--profile", str(tmp_path / "profile.parquet")],
        ["train", "--search", str(tmp_path / "search"), "--scores", scores]
        + ["--out", str(tmp_path / "predictor"), "--epochs", "5"],
    ]
    for step in steps:
        assert main(step) == 0
    capsys.readouterr()
    return tmp_path


def command_of(made, *changes):
    options = {
        "--model": made / "model",
        "--predictor": made / "predictor",
        "--profile": made / "profile.parquet",
        "--scores": made / "scores",
        "--ratio": "0.37",
        "--out": made / "small",
    } | dict(zip(changes[::2], changes[1::2], strict=True))
    return ["prune", *(str(x) for pair in options.items() for x in pair)]


def cut(made, *changes):
    return main(command_of(made, *changes))


def test_samples_lists_what_was_searched(made, capsys):
    data = ["--model", str(made / "model"), "--samples", str(made / "samples.parquet")]
    data += ["--scores", str(made / "scores"), "--out", str(made / "search")]
    assert main(["search", *data, "--target", "0.2", "--seed", "7", "--simulations", "3"]) == 0
    capsys.readouterr()
    assert main(["samples", "--search", str(made / "search")]) == 0
    _, first, *_, last = capsys.readouterr().out.splitlines()
    assert first.split()[:3] == ["surrogate", "0.2", "7"]
    assert first.split()[-1] == "current"
    assert last.startswith("3 searches, ")
    assert main(["samples", "--search", str(made / "search"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["current"] for row in rows] == [True, False, False]
    assert all(row["best"] >= row["began"] for row in rows)
    assert main(["samples", "--search", str(made / "scores")]) == 2
    assert "no search samples; run the search first" in capsys.readouterr().err


def test_predict_prints_the_plan_and_how_much_of_the_whole_model_it_is(made, capsys):
    command = ["predict", "--predictor", str(made / "predictor"), "--ratio", "0.37"]
    assert main(command) == 0
    *_, total, said = capsys.readouterr().out.splitlines()
    assert total.split() == ["ffn:", "7,296", "of", "11,520", "parameters,", "36.7%", "less"]
    assert said == "a share of ffn; --model tells that of the whole model"
    of_model = ["--model", str(made / "model")]
    assert main([*command, *of_model]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert main([*command, *of_model, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert sum(plan["kept"]) == 76
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"ratio", "ratios", "kept"}
    assert cut(made) == 0
    record = json.loads((made / "small" / "pruning.json").read_text())
    dense, small = record["dense_parameters"], record["parameters"]
    assert (plan["parameters"], plan["reduction"]) == (small, 1 - small / dense)
    assert said == f"{dense:,} -> {small:,} parameters ({1 - small / dense:.1%} of the whole model)"


@pytest.mark.parametrize("method", ["lop", "knapsack", "flap"])
def test_prune_writes_a_checkpoint_that_can_be_evaluated(made, capsys, method):
    assert cut(made, "--method", method) == 0
    said = capsys.readouterr().out
    assert "of the whole model" in said
    assert sum(find_space(load(made / "small")).units) == 76
    card = (made / "small" / "README.md").read_text()
    assert "37.0% of its FFN neurons pruned" in card
    record = json.loads((made / "small" / "pruning.json").read_text())
    assert f"{record['dense_parameters']:,} -> {record['parameters']:,}" in said
    samples = str(made / "samples.parquet")
    assert main(["evaluate", "--model", str(made / "small"), "--samples", samples]) == 0
    assert "lop_vqa, 12 questions" in capsys.readouterr().out


def test_evaluate_takes_tasks_and_keeps_what_is_finished(made, capsys):
    rows = easyvqa_benchmarks.mme(easyvqa.load("holdout").head(120))
    easyvqa_benchmarks.write(rows, made / "mme" / "data" / "test-00000-of-00001.parquet")
    command = ["evaluate", "--model", str(made / "model"), "--out", str(made / "out")]
    assert main([*command, "--tasks", f"easyvqa_mme={made / 'mme'}"]) == 0
    said = capsys.readouterr().out
    assert f"easyvqa_mme, {len(rows)} questions\n  score" in said
    assert "latency" not in said, "nothing to measure it on"
    saved = json.loads((made / "out" / "easyvqa_mme.json").read_text())
    assert saved["primary"] == "score"
    written = (made / "out" / "easyvqa_mme.parquet").stat().st_mtime_ns
    samples = ["--samples", str(made / "samples.parquet")]
    assert main([*command, *samples, "--tasks", "lop_vqa", f"easyvqa_mme={made / 'mme'}"]) == 0
    assert (made / "out" / "easyvqa_mme.parquet").stat().st_mtime_ns == written
    for tasks, message in (
        (["smell"], "--tasks: expected 'lop_vqa', 'lop_text', "),
        (["easyvqa_pope"], "easyvqa_pope: no data at"),
        ([f"pope={made / 'nowhere'}"], "task pope: no data at"),
        ([f"pope={made / 'mme'}"], "no column 'image_source'"),
        ([f"mme={made / 'mme'}"], "row 0: category"),
    ):
        assert main([*command, *samples, "--tasks", *tasks]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_output_replaces_nothing_but_its_own_kind(made, capsys):
    """Neither an input of the command, nor a folder of another kind, nor what a link points at."""
    dense = made / "other"
    shutil.copytree(made / "model", dense)
    (dense / "lop.json").unlink(missing_ok=True)
    (made / "link").symlink_to(made / "model")
    search = ["--search", str(made / "search"), "--scores", str(made / "scores/flap.safetensors")]
    train = ["train", *search, "--epochs", "1", "--out"]
    data = ["--model", str(made / "model"), "--samples", str(made / "samples.parquet")]
    before = contents(made)
    for command, message in [
        (command_of(made, "--out", made / "model"), "is an input of this command"),
        (command_of(made, "--out", made / "predictor"), "is an input of this command"),
        (command_of(made, "--out", made / "search"), "is there already and is not"),
        (command_of(made, "--out", dense), "is there already and is not"),
        (command_of(made, "--out", made / "link"), "is a link to"),
        (command_of(made, "--out", made), "holds .*, an input of this command"),
        (command_of(made, "--out", made / "model/small"), "lies in .*, an input of this command"),
        ([*train, str(made / "model")], "is there already and is not a predictor"),
        ([*train, str(made / "scores")], "is an input|holds .*, an input"),
        (["importance", *data, "--out", str(made / "predictor")], "is there already and is not"),
        (["importance", *data, "--out", str(made / "model")], "is an input of this command"),
    ]:
        assert main(command) == 2, command
        error = capsys.readouterr().err
        assert re.search(message, error), error
        assert error.count("\n") == 1
        assert contents(made) == before


def test_a_search_beside_hidden_files_leaves_them_alone(made, capsys):
    for name in (".gitlab-ci.yml", ".env.local"):
        (made / "search" / name).write_text("somebody's")
    (made / "search" / ".git.d").mkdir()
    data = ["--model", str(made / "model"), "--samples", str(made / "samples.parquet")]
    data += ["--scores", str(made / "scores"), "--out", str(made / "search")]
    assert main(["search", *data, "--target", "0.2", "--simulations", "2"]) == 0
    hidden = sorted(p.name for p in (made / "search").glob(".*"))
    assert hidden == [".env.local", ".git.d", ".gitlab-ci.yml"]


@pytest.mark.parametrize("target", ["params", "size", "flops-per-token"])
def test_a_target_becomes_the_ratio_that_meets_it(made, capsys, target):
    model = Stored(made / "model")
    measure = COSTS[target.replace("-", "_")]
    cost = measure(model, model.space())
    aim = cost.dense - 50.5 * cost.units[0]  # between two whole numbers of neurons
    command = ["prune", "--model", str(made / "model"), "--scores", str(made / "scores")]
    command += ["--method", "random", "--out", str(made / "small"), f"--{target}"]
    assert main([*command, f"{aim:.0f}"]) == 0
    assert "ratio 0.4250" in capsys.readouterr().out
    small = Stored(made / "small")
    assert sum(small.space().units) == 120 - 51
    assert measure(small, small.space()).dense == cost.dense - 51 * cost.units[0] <= aim
    for amount in ("3", f"{cost.dense + 1:.0f}"):
        assert main([*command, amount]) == 2
        assert "cannot be met: this model reaches" in capsys.readouterr().err
    assert main([*command, "big"]) == 2
    assert "expected an amount such as 5.2B" in capsys.readouterr().err


def test_a_target_is_met_by_all_methods_that_are_compared(made, capsys):
    """At one ratio: FLAP's biases count too, so the others have a little less than they might."""
    aim = Stored(made / "model").parameters - 3000
    places = [f"--{name}={made / name}" for name in ("model", "scores", "predictor")]
    command = ["compare", *places, f"--samples={made / 'samples.parquet'}"]
    command += ["--methods", "flap", "random", "--ratios", f"params {aim}", "0.5"]
    assert main([*command, "--out", str(made / "compared")]) == 0
    table = pd.read_csv(made / "compared" / "comparison.csv")
    met = table[table["ratio"] != 0.5]
    assert met["ratio"].nunique() == 1
    assert (met["parameters"] <= aim).all()
    assert met["parameters"].max() > aim - 96, "less than a neuron below"
    assert main([*command, "--ratios", "weight 9kg", "--out", str(made / "x")]) == 2
    assert "--ratios: " in capsys.readouterr().err


def test_a_sibling_is_cut_when_told_so(made, capsys):
    sibling = load(made / "model")
    sibling.get_input_embeddings().weight.data[0] += 1
    sibling.save_pretrained(made / "model")
    assert cut(made) == 2
    assert "take it for a sibling's" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="predictor trained for model"):
        assert main([*command_of(made), "--sibling"]) == 0
    assert sum(find_space(load(made / "small")).units) == 76


def test_padding_says_before_what_it_saves_and_a_bound_makes_it_more(made, capsys):
    command = [*command_of(made), "--format", "padded", "--profile", str(made / "profile.parquet")]
    assert main(command) == 0
    before, *offers, _, after = capsys.readouterr().out.splitlines()
    record = json.loads((made / "small" / "pruning.json").read_text())
    saved = f"{1 - record['stored_parameters'] / record['dense_parameters']:.1%}"
    assert f"this plan saves {saved} of the whole model" in before
    assert saved in after
    assert "padded with zeros to" in after
    assert set(find_space(load(made / "small")).units) == {max(record["kept"])}
    bound = offers[-1].split()[1]
    assert "of the reward by the profile" in offers[-1]
    assert main([*command, "--widest", bound]) == 0
    assert offers[-1].split()[4].rstrip(",") in capsys.readouterr().out
    narrow = json.loads((made / "small" / "pruning.json").read_text())
    assert sum(narrow["kept"]) == sum(record["kept"])
    assert max(narrow["kept"]) <= 40 * float(bound) < max(record["kept"])
    assert main([*command, "--widest", "0.5"]) == 2
    assert "remove 0.5000 at least" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["random", "knapsack", "lop"])
def test_a_target_in_latency_is_met_as_predicted(made, capsys, method):
    timed = str(made / "latency.parquet")
    request = ["--prompt", "8", "--generated", "3", "--repeats", "2"]
    assert main(["latency", "--model", str(made / "model"), "--out", timed, *request]) == 0
    assert "for the prompt" in capsys.readouterr().out
    found = LatencyProfile.load(Path(timed))
    # on a model this small times hardly differ: let neurons take some
    table = found.table.copy()
    ffns = [i for i, kind in enumerate(found.space.kinds) if kind == "ffn"]
    at = table["site"].isin(ffns)
    table.loc[at, "decode_ms"] = table.loc[at, "kept"]
    replace(found, table=table).save(Path(timed))
    command = [part for part in command_of(made, "--method", method) if part != "0.37"]
    command[command.index("--ratio")] = "--latency=0.7x"
    assert main(command) == 2
    assert "needs a latency profile" in capsys.readouterr().err
    assert main([*command, "--latency-profile", timed]) == 0
    _, said, *_ = capsys.readouterr().out.splitlines()
    before, after = float(said.split()[1]), float(said.split()[3])
    assert 0.6 * before < after <= 0.7 * before + 0.1
    other = replace(found, machine=replace(found.machine, name="another"), table=table)
    other.save(Path(timed))
    assert main([*command, "--latency-profile", timed]) == 2
    assert "say --elsewhere" in capsys.readouterr().err
    assert main([*command, "--latency-profile", timed, "--elsewhere"]) == 0


def test_attention_goes_the_whole_way_in_multiples(made, capsys):
    """From scores to a checkpoint, with heads and FFN widths that are multiples of 8."""
    place = ["--model", str(made / "model"), "--samples", str(made / "samples.parquet")]
    scores, search = ["--scores", str(made / "both")], str(made / "searched")
    profile = ["--profile", str(made / "both.parquet")]
    kinds = ["--scope", "ffn+attention", "--multiple-of", "8", "--attention-floor", "0"]
    reward = ["--reward", str(made / "samples.parquet")]
    assert main(["importance", *place, *kinds, *reward, "--out", str(made / "both")]) == 0
    assert main(["profile", *place, *scores, "--out", profile[1]]) == 0
    searching = ["search", *place, *scores, *profile, "--out", search, "--simulations", "5"]
    assert main([*searching, "--target", "0.2", "0.5"]) == 0
    flap = str(made / "both" / "flap.safetensors")
    training = ["train", "--search", search, "--scores", flap, *profile, "--epochs", "3"]
    assert main([*training, "--out", str(made / "joint")]) == 0
    for method in ("lop", "knapsack", "uniform", "flap", "wanda_sp"):
        capsys.readouterr()
        made_of = [*place[:2], *scores, *profile, "--predictor", str(made / "joint")]
        cutting = ["prune", *made_of, "--ratio", "0.4", "--method", method]
        assert main([*cutting, "--out", str(made / method)]) == 0
        assert "40.0% of ffn+attention pruned" in capsys.readouterr().out
        record = json.loads((made / method / "pruning.json").read_text())
        assert set(record["kinds"]) == {"ffn", "attention"}
        each = zip(record["kinds"], record["kept"], strict=True)
        assert all(kept % 8 == 0 for kind, kept in each if kind == "ffn")
        small = load(made / method)
        assert record["parameters"] == sum(p.numel() for p in small.parameters())
    assert main(["predict", "--predictor", str(made / "joint"), "--ratio", "0.3"]) == 0
    assert "layer   1 attention keeps" in capsys.readouterr().out


def test_compare_sets_methods_side_by_side(made, capsys):
    places = [f"--{name}={made / name}" for name in ("model", "scores", "predictor")]
    places += [f"--profile={made / 'profile.parquet'}", f"--samples={made / 'samples.parquet'}"]
    methods = ["lop", "knapsack", "uniform", "random", "magnitude", "wanda_sp", "flap"]
    grid = ["--methods", *methods, "--ratios", "0.4", "--out", str(made / "all")]
    assert main(["compare", *places, *grid]) == 0
    said = capsys.readouterr().out
    assert said.startswith("| ratio | model | LOP | Knapsack | Uniform | Random | Magnitude |")
    assert "LOP minus each other" in said
    assert said.strip() == (made / "all" / "comparison.md").read_text().strip()
    table = pd.read_csv(made / "all" / "comparison.csv")
    assert len(table) == 7
    assert table.groupby("ratio")["ffn_neurons"].nunique().eq(1).all()


def test_compare_needs_a_predictor_for_lop_alone(made, capsys):
    places = [f"--{name}={made / name}" for name in ("model", "scores")]
    places += [f"--samples={made / 'samples.parquet'}", f"--out={made / 'all'}", "--ratios", "0.4"]
    assert main(["compare", *places, "--methods", "uniform"]) == 0
    assert main(["compare", *places, "--methods", "uniform", "lop"]) == 2
    assert "method 'lop' needs a predictor" in capsys.readouterr().err


def bad_cases():
    def corrupt(path):
        return lambda made: (made / path).write_bytes(b"\x08")

    def other_model(made):
        config = made / "predictor" / "config.json"
        values = json.loads(config.read_text()) | {"model_fingerprint": "someone-else"}
        config.write_text(json.dumps(values))

    def nothing(made):
        pass

    return [
        ("reach", nothing, ("--ratio", "0.9"), "pruning ratio 0.9 is out of reach"),
        ("model", nothing, ("--model", "nowhere/at/all"), "no such model directory"),
        ("hub", nothing, ("--model", "org/model"), "the hub is switched off"),
        ("predictor", nothing, ("--predictor", "nowhere"), "no such predictor directory"),
        ("profile", corrupt("profile.parquet"), ("--method", "knapsack"), "cannot read a profile"),
        ("score", corrupt("scores/flap.safetensors"), (), "cannot read scores"),
        ("weights", corrupt("model/model.safetensors"), (), "cannot read safetensors"),
        ("config", corrupt("model/config.json"), (), "config.json: cannot read JSON"),
        ("other", other_model, (), "predictor trained for model someone-else, this model is"),
    ]


@pytest.mark.parametrize(
    ("_", "damage", "changes", "message"), bad_cases(), ids=lambda c: str(c)[:9]
)
def test_bad_input_ends_in_one_line_and_nothing_written(made, capsys, _, damage, changes, message):
    damage(made)
    before = sorted(made.rglob("*"))
    assert cut(made, *changes) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("lop: ")
    assert error.count("\n") == 1
    assert sorted(made.rglob("*")) == before


def command_line(place, name, *changes):
    """A command with all that it must have, in a folder with an empty file and an empty folder."""
    (place / "file").touch()
    (place / "folder").mkdir(exist_ok=True)
    file, folder = str(place / "file"), str(place / "folder")
    needs = {
        "prepare": {"--source": folder},
        "importance": {"--model": folder, "--samples": file},
        "profile": {"--model": folder, "--samples": file, "--scores": folder},
        "search": {"--model": folder, "--samples": file, "--scores": folder, "--target": "0.2"},
        "train": {"--search": folder, "--scores": file},
        "predict": {"--predictor": folder, "--ratio": "0.2"},
        "prune": {"--model": folder, "--scores": folder, "--ratio": "0.2"},
        "evaluate": {"--model": folder},
        "compare": {"--model": folder, "--scores": folder, "--samples": file}
        | {"--methods": "flap", "--ratios": "0.2"},
        "serve": {"--predictor": folder, "--model": folder, "--scores": folder},
        "samples": {"--search": folder},
        "diff": {},
    }[name]
    if name not in ("predict", "samples", "diff"):
        needs |= {"--out": str(place / "out")}
    needs |= dict(zip(changes[::2], changes[1::2], strict=True))
    words = [text for pair in needs.items() if pair[1] is not None for text in pair]
    return [name, *(str(place / word[1:]) if word[:1] == "@" else word for word in words)]


WRONG_OPTIONS = [
    (("predict", "--ratio", "nan"), "--ratio: expected a finite number, got 'nan'"),
    (("predict", "--ratio", "1.2"), "--ratio: expected less than 1, got '1.2'"),
    (("predict", "--ratio", "-0.1"), "--ratio: expected at least 0, got '-0.1'"),
    (("predict", "--ratio", "much"), "--ratio: expected a valid number, unable to parse"),
    (("predict", "--predictor", "@nowhere"), "--predictor: expected a directory that exists"),
    (("predict", "--predictor", "@file"), "--predictor: expected a directory, got"),
    (
        ("prune", "--ratio", None),
        "expected one of --ratio, --params, --size, --flops-per-token and",
    ),
    (
        ("prune", "--size", "9GB"),
        "expected one of --ratio, --params, --size, --flops-per-token and",
    ),
    (("prune", "--ratio", None, "--params", ""), "--params: expected text, got none"),
    (("prune", "--ratio", None, "--size", "-1GB"), "argument --size: expected one argument"),
    (("importance", "--multiple-of", "0"), "--multiple-of: expected at least 1"),
    (("prune", "--method", "magic"), "--method: expected 'lop', 'knapsack'"),
    (("prune", "--format", "zip"), "--format: expected 'per_layer' or 'padded', got 'zip'"),
    (("prune", "--score", "mean_activation"), "--score: expected 'auto', 'flap'"),
    (("prune", "--profile", "@folder"), "--profile: expected a file, got"),
    (("prune", "--profile", "@nowhere"), "--profile: expected a file that exists, got"),
    (("prune", "--model", ""), "--model: expected text, got none"),
    (("prune", "--out", ""), "--out: expected a path, got an empty text"),
    (("prune", "--out", "@file"), "--out: expected a directory to write, got"),
    (("prune", "--out", "@file/below"), "/file is no directory"),
    (("prune", "--speed", "9"), "unrecognized arguments: --speed 9; see lop --help"),
    (("profile", "--out", "@folder"), "--out: expected a file to write, got"),
    (("profile", "--shares", "1"), "--shares: expected less than 1"),
    (("evaluate", "--tasks", "nonsense"), "--tasks: expected 'lop_vqa'"),
    (("evaluate", "--batch-size", "0"), "--batch-size: expected at least 1, got '0'"),
    (("evaluate", "--batch-size", "1.5"), "--batch-size: expected a valid integer, unable to"),
    (("search", "--target", "0.2", "--seed", "-1"), "--seed: expected at least 0, got '-1'"),
    (("search", "--target", "inf"), "--target: expected a finite number"),
    (("search", "--simulations", "0"), "--simulations: expected at least 1"),
    (("search", "--searcher", "x"), "--searcher: expected 'surrogate'"),
    (("search", "--reward", "x"), "--reward: expected 'loglik', 'accuracy', 'kl' or 'kl_text'"),
    (("train", "--epochs", "0"), "--epochs: expected at least 1"),
    (("train", "--sure", "-1"), "--sure: expected at least 0"),
    (("train", "--smooth", "-1"), "--smooth: expected at least 0"),
    (("train", "--kind", "rnn"), "--kind: expected 'transformer', 'bilstm' or 'mlp'"),
    (("train", "--scores", "@folder"), "--scores: expected a file, got"),
    (("prepare", "--calibration", "-5"), "--calibration: expected at least 2"),
    (("compare", "--workers", "0"), "--workers: expected at least 1"),
    (("serve", "--port", "99999"), "--port: expected less than 65536"),
    (("serve", "--poll", "nan"), "--poll: expected a finite number"),
    (("serve", "--keep", "0"), "--keep: expected at least 1"),
    (("serve", "--token-file", "@nowhere"), "--token-file: expected a file that exists"),
    (("diff", "--limit", "-1"), "the following arguments are required: A, B; see lop diff --help"),
    (("importance", "--out", None), "arguments are required: --out; see lop importance --help"),
]


@pytest.mark.parametrize(
    ("changes", "message"), WRONG_OPTIONS, ids=[" ".join(map(str, c)) for c, _ in WRONG_OPTIONS]
)
def test_a_wrong_option_is_named_before_anything_is_done(changes, message, tmp_path, capsys):
    command = command_line(tmp_path, *changes)
    before = sorted(tmp_path.rglob("*"))
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("lop: ")
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([], "the following arguments are required: COMMAND; see lop --help"),
        (["smell"], "invalid choice: 'smell'"),
        (["diff", "a", "b", "--limit", "-1"], "--limit: expected at least 0, got '-1'"),
        (["compare", "--ratios", "0.2", "0.2"], "the following arguments are required"),
    ],
)
def test_a_command_that_is_none_is_one_line(command, message, capsys):
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "values", "twice"),
    [
        ("--target", ["0.2", "0.2"], "0.2"),
        ("--target", ["0.2", "0.2000001"], "0.2"),
        ("--seed", ["3", "3"], "3"),
    ],
)
def test_a_value_given_twice_is_named(option, values, twice, tmp_path, capsys):
    command = command_line(tmp_path, "search", option, None)
    if option != "--target":
        command += ["--target", "0.2"]
    assert main([*command, option, *values]) == 2
    assert capsys.readouterr().err == f"lop: {option}: {twice} is there twice\n"


def test_help_reads_well_and_needs_no_torch():
    code = """
import sys, lop.cli
try: lop.cli.main(["--help"])
finally: assert "torch" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for command in (
        "prepare", "importance", "profile", "search", "samples", "train", "predict", "prune",
        "evaluate", "compare", "serve",
    ):  # fmt: skip
        assert f"  {command}" in run.stdout
    module = subprocess.run([sys.executable, "-m", "lop", "--help"], capture_output=True, text=True)
    assert module.stdout == run.stdout


def test_a_hub_that_does_not_answer_is_one_line_at_once(made):
    command = [sys.executable, "-c", "import sys, lop.cli; sys.exit(lop.cli.main())", "importance"]
    command += [
        "--model",
        "org/model",
        "--samples",
        str(made / "samples.parquet"),
        "--out",
        str(made / "x"),
    ]
    nowhere = os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    begun = time.monotonic()
    run = subprocess.run(command, env=nowhere, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith("lop: org/model: no such directory, and not on the hub:")
    assert run.stderr.count("\n") == 1
    assert (
        time.monotonic() - begun < 60
    )  # imports included; transformers alone would try for longer
    assert not (made / "x").exists()
