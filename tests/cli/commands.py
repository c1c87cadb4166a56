"""A tiny model with all that the commands make for it, and a command that prunes it."""

import pytest

from lop.cli import main
from lop.data.samples import write_samples


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
