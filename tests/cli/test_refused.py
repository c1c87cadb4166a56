"""Bad input of the command line is one clear line, and nothing is written."""

import json
import os
import subprocess
import sys
import time

import pytest
from commands import cut

from lop.cli import main

pytest_plugins = ["commands"]


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
        ("reach", nothing, ("--ratio", "0.9"), "pruning ratio 0.9: expected"),
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
    (("prune", "--out", "@file/below"), "/file is not a directory"),
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
    assert capsys.readouterr().err == f"lop: {option}: {twice} is given twice\n"


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
