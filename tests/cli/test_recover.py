"""`lop recover`, and what is cut out of the weights that it makes."""

import json

import pandas as pd
from commands import command_of

from lop.cli import main
from lop.data.samples import read_samples, write_samples
from lop.models.stored import Stored

pytest_plugins = ["commands"]


def test_recovered_weights_are_cut_by_the_plans_of_the_model_before(made, capsys):
    samples = str(made / "samples.parquet")
    few = ["--steps", "3", "--batch-size", "6", "--seed", "1"]
    parts = [f"--{name}={made / name}" for name in ("scores", "predictor")]
    recover = ["recover", "--model", str(made / "model"), "--samples", samples, *parts, *few]
    out = str(made / "recovered")
    assert main([*recover, "--out", out]) == 0
    assert "loss_last" in capsys.readouterr().out
    curve = pd.read_csv(f"{out}-training/curve.csv")
    assert list(curve["step"]) == [1, 2, 3]
    # the ratios that are drawn are those that the predictor knows
    assert curve["ratio"].max() <= 0.6
    said = json.loads((made / "recovered" / "recovery.json").read_text())
    assert said["recovered_from"] == Stored(made / "model").fingerprint
    prune = [*command_of(made, "--method", "lop_recovered"), "--recovered", out]
    assert main(prune) == 0
    record = json.loads((made / "small" / "pruning.json").read_text())
    assert record["model_fingerprint"] == Stored(out).fingerprint != said["recovered_from"]
    assert main(command_of(made, "--method", "lop")) == 0
    assert json.loads((made / "small" / "pruning.json").read_text())["kept"] == record["kept"]
    capsys.readouterr()
    for command, says in (
        (command_of(made, "--method", "lop_recovered"), "need recovered weights"),
        ([*prune[:-1], str(made / "model")], "expected a model that `lop recover` wrote"),
        ([*recover, "--apart", samples, "--out", out], "its picture or document is in"),
        ([*recover, "--high", "0.95", "--out", out], "ratio 0.95: expected"),
        ([*recover, "--low", "0.5", "--high", "0.3", "--out", out], "low 0.5 is above high 0.3"),
        ([*recover, "--lr", "1e20", "--out", out], "set a smaller learning rate than 1e+20"),
    ):
        assert main(command) == 2, command
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
    assert json.loads((made / "recovered" / "recovery.json").read_text()) == said


def test_a_kit_of_another_model_is_refused(made, capsys):
    write_samples(read_samples(made / "samples.parquet"), made / "train.parquet")
    parts = [f"--{name}={made / name}" for name in ("scores", "predictor")]
    assert main(["kit", *parts, "--out", str(made / "kit")]) == 0
    recover = ["recover", "--samples", str(made / "train.parquet"), "--kit", str(made / "kit")]
    quick = ["--steps", "1", "--out", str(made / "recovered")]
    assert main([*recover, *quick, "--model", str(made / "model")]) == 0
    capsys.readouterr()
    again = [*recover, "--steps", "1", "--out", str(made / "twice")]
    assert main([*again, "--model", str(made / "recovered")]) == 2
    assert "predictor trained for model" in capsys.readouterr().err
