"""Targets of the command line: sizes, latencies, bounds, and what may be cut."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from commands import command_of

from lop.cli import main
from lop.evaluation.latency import LatencyProfile
from lop.models.checkpoint import load
from lop.models.costs import COSTS
from lop.models.space import find_space
from lop.models.stored import Stored

pytest_plugins = ["commands"]


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
    bounded = [part for part in command if part not in ("--format", "padded")]
    at = bounded.index("--ratio")
    size = Stored(made / "model").parameters - 60 * Stored(made / "model").space().grain
    bounded[at : at + 2] = ["--params", str(size), "--widest", "0.6", "--method", "random"]
    assert main(bounded) == 0
    assert json.loads((made / "small" / "pruning.json").read_text())["parameters"] == size
    assert main([*command, "--widest", "0.5"]) == 2
    assert "removes at least 0.5000" in capsys.readouterr().err


def test_padding_a_model_of_uneven_widths_says_what_it_saves(made, capsys):
    """Its narrow FFNs are filled up beyond what they had."""
    assert main(command_of(made, "--compensate", "false")) == 0
    place = ["--model", str(made / "small"), "--scores", str(made / "again")]
    rule = ["--score", "flap", "--compensate", "false", "--method", "random", "--ratio", "0.1"]
    scored = ["--samples", str(made / "samples.parquet"), "--out", str(made / "again")]
    assert main(["importance", *place[:2], *scored]) == 0
    units = Stored(made / "small").space().units
    told = []
    for form in ("padded", "per_layer"):
        capsys.readouterr()
        assert main(["prune", *place, *rule, "--format", form, "--out", str(made / form)]) == 0
        told.append(capsys.readouterr().out)
    record, plain = (
        json.loads((made / form / "pruning.json").read_text()) for form in ("padded", "per_layer")
    )
    assert max(record["kept"]) > min(units)
    assert set(Stored(made / "padded").space().units) == {max(record["kept"])}
    stored = Stored(made / "padded").parameters
    assert record["stored_parameters"] == stored
    assert f"saves {1 - stored / record['dense_parameters']:.1%} of the whole model" in told[0]
    assert record["kept"] == plain["kept"]
    small = Stored(made / "per_layer").parameters
    assert record["parameters"] == plain["parameters"] == plain["stored_parameters"] == small
    assert f"-> {small:,} parameters" in told[0]


@pytest.mark.parametrize("method", ["random", "knapsack", "lop"])
def test_a_target_in_latency_is_met_as_predicted(made, capsys, method):
    timed = str(made / "latency.parquet")
    request = ["--prompt", "8", "--generated", "3", "--repeats", "2"]
    assert main(["latency", "--model", str(made / "model"), "--out", timed, *request]) == 0
    assert "for the prompt" in capsys.readouterr().out
    for wrong, says in (
        (["--prompt", "100000"], "the model has room for"),
        (["--out", str(made / "samples.parquet")], "cannot read a latency profile"),
        (["--device", "gpu"], "--device: expected"),
    ):
        assert main(["latency", "--model", str(made / "model"), "--out", timed, *wrong]) == 2
        assert says in capsys.readouterr().err
    found = LatencyProfile.load(Path(timed))
    # on a model this small times hardly differ: let neurons take most
    table = found.table.copy()
    ffns = [i for i, kind in enumerate(found.space.kinds) if kind == "ffn"]
    at = table["site"].isin(ffns)
    table.loc[at, "decode_ms"] = 100 * table.loc[at, "kept"]
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
    assert "set --elsewhere" in capsys.readouterr().err
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
