"""A predictor on disk may be from anywhere: it is whole and sound, or refused in one line."""

import json
import os
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lop.errors import LopError
from lop.plan import Space
from lop.predictor import NETWORKS, Predictor, PredictorConfig

CONFIG = PredictorConfig(
    Space.ffns((64,) * 4), "model-a", min_ratio=0.1, max_ratio=0.6, hidden=16, heads=2
)


@pytest.fixture
def place(tmp_path):
    Predictor(CONFIG).save_pretrained(tmp_path / "p")
    return tmp_path / "p"


def refused(place, file):
    with pytest.raises(LopError) as told:
        Predictor.from_pretrained(place)
    line = str(told.value)
    assert line.startswith(f"{place / file}: ")
    assert "\n" not in line
    assert len(line) < 500
    return line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": 64}, "space: Input should be"),
        ({"units": 64}, "space.units: Input should be a valid array"),
        ({"units": []}, "space.units: Tuple should have at least 1 item"),
        ({"units": [64, 0, 64, 64]}, "space.units.1: Input should be greater than 0"),
        ({"units": [64, -3, 64, 64]}, "space.units.1: Input should be greater than 0"),
        ({"units": [64, 64.5, 64, 64]}, "space.units.1: Input should be a valid integer"),
        ({"units": [64, True, 64, 64]}, "space.units.1: Input should be a valid integer"),
        ({"units": [64, "64", 64, 64]}, "space.units.1: Input should be a valid integer"),
        ({"units": [10**12] * 4}, "space.units.0: Input should be less than or equal to"),
        ({"units": [1] * 9000}, "space.units: Tuple should have at most 8192 items"),
        ({"units": [64] * 3}, "space: expected lists of equal length"),
        ({"costs": [1, 0, 1, 1]}, "space.costs.1: Input should be greater than 0"),
        ({"kinds": ["ffn", "norm", "ffn", "ffn"]}, "space.kinds.1: Input should be 'ffn' or"),
        ({"kinds": ["attention"] * 4}, "expected FFNs among them"),
        ({"floors": [6, 6, 6, 65]}, "floors (6, 6, 6, 65): expected 0 to all units"),
        ({"multiple": 0}, "space.multiple: Input should be greater than 0"),
        ({"multiple": 7}, "multiple_of 7 does not divide an FFN of 64 neurons"),
        ({"model_fingerprint": None}, "model_fingerprint: Input should be a valid string"),
        ({"min_ratio": "0.1"}, "min_ratio: Input should be a valid number"),
        ({"min_ratio": float("nan")}, "min_ratio: Input should be a finite number"),
        ({"max_ratio": float("inf")}, "max_ratio: Input should be a finite number"),
        ({"min_ratio": -0.1}, "min_ratio: Input should be greater than or equal to 0"),
        ({"min_ratio": 0.7}, "min_ratio 0.7 is above max_ratio 0.6"),
        ({"max_ratio": 0.99}, "pruning ratio 0.99 cannot be met"),
        ({"kind": "gru"}, "predictor kind 'gru': expected one of transformer, bilstm, mlp"),
        ({"kind": 3}, "kind: Input should be a valid string"),
        ({"hidden": 15}, "hidden 15 cannot be split among 2 heads"),
        ({"hidden": 0}, "hidden: Input should be greater than 0"),
        ({"hidden": 10**9}, "hidden: Input should be less than or equal to 8192"),
        ({"depth": 10**9}, "depth: Input should be less than or equal to 64"),
        ({"heads": 0}, "heads: Input should be greater than 0"),
        ({"architectures": ["X"]}, "architectures: Unexpected"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_config_that_cannot_be_names_its_field(place, change, message):
    path = place / "config.json"
    config = json.loads(path.read_text())
    of_space = {name: value for name, value in change.items() if name in config["space"]}
    config["space"] |= of_space
    path.write_text(json.dumps(config if of_space else config | change))
    assert message in refused(place, "config.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", "[" * 100_000, b"\xff\xfe"])
def test_a_config_that_is_none_is_refused(place, text):
    (place / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(place, "config.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("head.bias"), "head.bias is missing"),
        (lambda w: w.update(more=torch.ones(1)), "more is not a tensor of this network"),
        (lambda w: w.update({"head.bias": torch.ones(2)}), "head.bias: shape [2], expected [1]"),
        (lambda w: w["head.weight"].fill_(float("nan")), "head.weight: expected finite numbers"),
        (lambda w: w["base"][3].fill_(float("inf")), "base: expected finite numbers"),
        (
            lambda w: w.update({"head.bias": torch.ones(1, dtype=torch.int64)}),
            "head.bias: expected finite numbers",
        ),
    ],
    ids=["missing", "more", "shape", "nan", "inf", "integers"],
)
def test_weights_that_do_not_fit_name_their_tensor(place, change, message):
    path = place / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    assert message in refused(place, "model.safetensors")


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_large_config_of_small_weights_costs_nothing(place, kind):
    path = place / "config.json"
    huge = {"hidden": 8192, "depth": 64, "kind": kind}  # would be gigabytes
    path.write_text(json.dumps(json.loads(path.read_text()) | huge))
    refused(place, "model.safetensors")


@pytest.fixture
def another_user():
    """Root may read everything: files are looked at as nobody, who may not."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("hidden", ["", "config.json", "model.safetensors"])
def test_what_another_user_may_not_read_says_so(hidden, request):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        Predictor(CONFIG).save_pretrained(root / "p")
        for file in (root / "p").iterdir():
            file.chmod(0o644)
        (root / "p" / hidden).chmod(0)
        try:
            request.getfixturevalue("another_user")
            with pytest.raises(LopError, match="Permission denied"):
                Predictor.from_pretrained(root / "p")
        finally:
            if not os.getuid():
                os.seteuid(0)
            (root / "p" / hidden).chmod(0o755)
