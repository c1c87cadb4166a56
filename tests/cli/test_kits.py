"""A kit on the command line, and the elastic checkpoint that is packed with one."""

import json

import pytest
from commands import cut

import lop
from lop.cli import main
from lop.files import content_digest

pytest_plugins = ["commands"]


@pytest.fixture
def kit(made, capsys):
    parts = [f"--{name}={made / name}" for name in ("scores", "predictor")]
    parts += [f"--profile={made / 'profile.parquet'}", "--score", "flap", "--compensate", "false"]
    assert main(["kit", *parts, "--out", str(made / "kit")]) == 0
    said = capsys.readouterr().out
    assert "ffn of 3 sites, score flap without compensation, pruning ratios 0.2 to 0.6" in said
    return ["--kit", str(made / "kit")]


def weights(folder):
    return content_digest(folder / "model.safetensors")


def test_a_kit_stands_for_its_parts(made, kit, capsys):
    model = ["--model", str(made / "model")]
    prune = ["prune", *model, "--ratio", "0.37"]
    assert cut(made, "--score", "flap", "--compensate", "false") == 0
    assert main([*prune, *kit, "--out", str(made / "by-kit")]) == 0
    assert weights(made / "by-kit") == weights(made / "small")
    capsys.readouterr()
    assert main(["predict", *kit, *model, "--ratio", "0.37", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["kept"] == json.loads((made / "by-kit" / "pruning.json").read_text())["kept"]
    for command, says in (
        ([*prune, *kit, "--scores", str(made / "scores")], "expected one of --kit and --scores"),
        (prune, "expected one of --kit and --scores"),
        (["predict", "--ratio", "0.3"], "expected one of --kit and --predictor"),
        ([*prune, "--kit", str(made / "scores")], "scores: is not a kit: it holds no kit.json"),
    ):
        out = ["--out", str(made / "x")] if command[0] == "prune" else []
        assert main([*command, *out]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


def test_an_elastic_checkpoint_is_packed_pruned_and_loaded(made, kit, capsys):
    pack = ["pack", "--model", str(made / "model"), *kit, "--out", str(made / "elastic")]
    assert main(pack) == 0
    assert main(pack) == 0  # of its own kind, and so replaced
    own = ["--model", str(made / "elastic"), "--kit", str(made / "elastic" / "kit")]
    assert main(["prune", *own, "--ratio", "0.37", "--out", str(made / "small")]) == 0
    small, loaded = lop.load(made / "small"), lop.load(made / "elastic", ratio=0.37)
    wanted = small.state_dict()
    assert all(tensor.equal(wanted[name]) for name, tensor in loaded.state_dict().items())
    capsys.readouterr()
    assert main([*pack[:-1], str(made / "scores")]) == 2
    assert "is not an elastic checkpoint" in capsys.readouterr().err
    assert main(["pack", "--model", own[1], *kit, "--out", str(made / "x")]) == 2
    assert "scores of model" in capsys.readouterr().err
