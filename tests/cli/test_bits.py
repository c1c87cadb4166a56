"""Plans of units and bits from the command line."""

import json

import pytest
import torch
from commands import command_of

from lop.cli import main
from lop.models.checkpoint import load
from lop.models.weights import read_header
from lop.profile import Profile

pytest_plugins = ["commands"]


def stored(folder):
    return sum(entry.size for entry in read_header(folder / "model.safetensors"))


@pytest.fixture
def profiled(made, capsys):
    """A profile at bits."""
    places = [f"--{name}={made / name}" for name in ("model", "scores")]
    command = ["profile", *places, f"--samples={made / 'samples.parquet'}", "--shares", "0.5"]
    out = made / "bits.parquet"
    assert main([*command, "--bits", "4", "8", "--group", "8", f"--out={out}"]) == 0
    assert set(Profile.load(out).at_bits.others) == {"embeddings", "attention"}
    return out


def test_a_size_is_met_by_units_and_bits_together(made, profiled, capsys):
    size = 2 * stored(made / "model") // 3
    command = ["prune", f"--model={made / 'model'}", f"--scores={made / 'scores'}"]
    command += [f"--profile={profiled}", "--method=knapsack", "--group=8", f"--size={size}"]
    assert main([*command, "--bits", "4", "8", "16", f"--out={made / 'small'}"]) == 0
    assert "bits a weight: " in capsys.readouterr().out
    assert 0.9 * size < stored(made / "small") <= size
    bits = json.loads((made / "small" / "pruning.json").read_text())["bits"]
    assert set(bits) == {"sites", "others", "group"}
    ids = torch.arange(10, 20)[None]
    with torch.inference_mode():
        assert load(made / "small")(input_ids=ids).logits.isfinite().all()


def test_all_weights_may_be_quantized_alike(made, capsys):
    command = command_of(made, "--method", "random", "--group", "8")
    assert main([*command, "--bits", "8"]) == 0
    assert "8 in 3 ffn, 8 in embeddings, 8 in attention" in capsys.readouterr().out
    eight = stored(made / "small")
    assert main([*command, "--bits", "4", "--others", "embeddings"]) == 0
    assert "4 in 3 ffn, 4 in embeddings\n" in capsys.readouterr().out
    at = command.index("--ratio")
    command[at : at + 2] = ["--size", f"{eight}"]
    assert main([*command, "--bits", "8"]) == 0
    assert 0.97 * eight < stored(made / "small") <= eight


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--ratio", "0.5", "--bits", "4", "8"], "several bits: expected a --size"),
        (["--size", "1MB", "--bits", "4", "8"], "several bits: expected --size and method knaps"),
        (["--ratio", "0.5", "--bits", "5"], "--bits: "),
    ],
)
def test_bits_that_mean_nothing_are_refused(made, capsys, more, told):
    command = ["prune", f"--model={made / 'model'}", f"--scores={made / 'scores'}"]
    assert main([*command, "--method", "random", *more, f"--out={made / 'x'}"]) == 2
    assert told in capsys.readouterr().err
