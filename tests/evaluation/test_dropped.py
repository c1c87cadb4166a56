"""Checkpoints that are not kept are evaluated as those that are, and leave no weights behind."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lop.errors import LopError
from lop.evaluation.dropped import Dropped
from lop.evaluation.footprint import Footprint
from lop.files import temporary_dir
from lop.recovery.files import save_recovered
from lop.steps import evaluating, scoring
from lop.steps.grid import prune_grid
from lop.steps.pruning import Cutter

HERE = dict.fromkeys(("each", "alone"), lambda work, keys: [work(*key) for key in keys])
METHODS, RATIOS = ["uniform", "flap"], [0.3, 0.5]
SAME = ("accuracy", "count", "by_category", "parameters", "ffn_neurons", "disk_bytes")


@pytest.fixture
def cutter(model_dir, samples, tmp_path):
    samples.to_parquet(tmp_path / "samples.parquet")
    scoring.importance(tmp_path / "scores", str(model_dir), tmp_path / "samples.parquet", 4)
    return Cutter(str(model_dir), tmp_path / "scores", "flap", False)


@pytest.fixture
def evaluate(cutter, tmp_path):
    def evaluate(out, pruned, scores=cutter.scores_dir, **given):
        places = (tmp_path / out, cutter.model_path, pruned, tmp_path / "samples.parquet")
        return evaluating.evaluate(*places, latency_samples=2, scores_dir=scores, **given, **HERE)

    return evaluate


def weights(place):
    return [path for path in place.rglob("*.safetensors") if path.is_file()]


def test_what_is_dropped_is_evaluated_as_what_is_kept(cutter, evaluate, tmp_path, monkeypatch):
    all_, none = tmp_path / "all", tmp_path / "none"
    prune_grid(all_, METHODS, RATIOS, cutter)
    prune_grid(none, METHODS, RATIOS, cutter, "none")
    assert len(weights(all_)) == 4
    assert not weights(none)
    expected, found = evaluate("with", all_), evaluate("without", none)
    assert list(found) == list(expected)
    for name, figures in expected.items():
        assert {k: found[name][k] for k in SAME} == {k: figures[k] for k in SAME}
        assert found[name]["tasks"] == figures["tasks"], "also their fingerprints"
        assert found[name].keys() == figures.keys() > set(Footprint.__annotations__) & {"speedup"}
    assert not weights(tmp_path / "without")

    def never(*_):
        raise AssertionError("nothing is missing")

    monkeypatch.setattr(Dropped, "at_hand", never)
    assert evaluate("without", none) == found
    kept, dropped = (json.loads((place / "plans.json").read_text()) for place in (all_, none))
    assert [{**plan, "cut_as": ...} for plan in kept] == [{**p, "cut_as": ...} for p in dropped]


def test_what_is_finished_is_not_cut_again_when_the_rest_is(
    cutter, evaluate, tmp_path, monkeypatch
):
    pruned = tmp_path / "pruned"
    prune_grid(pruned, METHODS, RATIOS, cutter, "none")
    found, cut = evaluate("out", pruned), []
    (tmp_path / "out" / "flap-0.5" / "lop_vqa.json").unlink()
    at_hand = Dropped.at_hand
    monkeypatch.setattr(
        Dropped, "at_hand", lambda self, place: cut.append(self.name) or at_hand(self, place)
    )
    assert evaluate("out", pruned) == found
    assert cut == ["flap-0.5"]


def test_the_files_of_a_checkpoint_are_read_once_for_its_digest(
    cutter, evaluate, tmp_path, monkeypatch
):
    pruned, read = tmp_path / "pruned", []
    prune_grid(pruned, METHODS, [0.5], cutter, ["uniform"])
    digest = hashlib.file_digest

    def counting(stream, *args):
        read.append(Path(stream.name))
        return digest(stream, *args)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    evaluate("out", pruned)
    models = [p for p in read if p.name == "model.safetensors"]
    assert len(models) == len({p.parent.name for p in models}) == 3


def test_a_killed_run_leaves_no_checkpoint_for_long(cutter, evaluate, tmp_path):
    pruned, place = tmp_path / "pruned", tmp_path / "out" / "flap-0.5"
    prune_grid(pruned, ["flap"], [0.5], cutter, "none")
    place.mkdir(parents=True)
    if not (child := os.fork()):
        with temporary_dir(place / "flap-0.5") as tmp:
            (tmp / "model.safetensors").write_bytes(bytes(1000))
            os._exit(9)
    os.waitpid(child, 0)
    assert weights(place)
    evaluate("out", pruned)
    assert not weights(place)


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("all", {"uniform-0.3", "uniform-0.5", "flap-0.3", "flap-0.5"}),
        (["flap"], {"flap-0.3", "flap-0.5"}),
        ([0.5], {"uniform-0.5", "flap-0.5"}),
        (["uniform-0.3", 0.5], {"uniform-0.3", "uniform-0.5", "flap-0.5"}),
    ],
)
def test_keep_names_methods_ratios_and_checkpoints(cutter, tmp_path, keep, kept):
    prune_grid(tmp_path / "pruned", METHODS, RATIOS, cutter, keep)
    assert {path.name for path in (tmp_path / "pruned").iterdir() if path.is_dir()} == kept


def test_what_cannot_be_kept_or_cut_is_told(cutter, evaluate, tmp_path):
    pruned = tmp_path / "pruned"
    with pytest.raises(LopError, match="keep wanda_sp: expected all, none, or a list of some of"):
        prune_grid(pruned, METHODS, RATIOS, cutter, ["wanda_sp"])
    assert not pruned.exists()
    prune_grid(pruned, METHODS, RATIOS, cutter, "none")
    with pytest.raises(LopError, match=r"plans.json: uniform-0.3 was not kept; give the scores"):
        evaluate("out", pruned, None)


def test_recovered_weights_are_cut_where_a_method_says_so(
    cutter, evaluate, model, processor, tmp_path
):
    record = {"recovered_from": cutter.source.fingerprint}
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)  # other answers, and other weights
    save_recovered(tmp_path / "recovered", model, processor, record)
    trained = replace(cutter, recovered_path=tmp_path / "recovered")
    methods = ["uniform", "uniform_recovered"]
    for out, keep in (("all", "all"), ("none", "none")):
        prune_grid(tmp_path / out, methods, [0.5], trained, keep)
    with pytest.raises(LopError, match="uniform_recovered-0.5 was not kept; give the recovered"):
        evaluate("without", tmp_path / "none")
    expected = evaluate("with", tmp_path / "all", recovered=tmp_path / "recovered")
    found = evaluate("without", tmp_path / "none", recovered=tmp_path / "recovered")
    assert list(found) == ["dense", "recovered", "uniform-0.5", "uniform_recovered-0.5"]
    assert {n: of["tasks"] for n, of in found.items()} == {
        n: of["tasks"] for n, of in expected.items()
    }
    marks = {of["tasks"]["lop_vqa"]["fingerprint"] for of in found.values()}
    assert len(marks) == 4


def test_the_recipe_names_all_that_a_checkpoint_is_made_of(cutter, tmp_path):
    said = {"method": "flap", "ratio": 0.5, "kept": [20] * 3, "kinds": ["ffn"] * 3}
    said |= {"layers": [0, 1, 2], "cut_as": cutter.cut_as("flap")}
    first = Dropped(said, Path(cutter.model_path), "content", cutter.scores_dir)
    padded = said["cut_as"] | {"format": "padded"}
    others = [
        replace(first, said=said | {"kept": [20, 20, 21]}),
        replace(first, said=said | {"cut_as": padded}),
        replace(first, source_content="other"),
    ]
    before, found = first.recipe, {each.recipe for each in others}
    file = cutter.scores_dir / "mean_activation.safetensors"  # which restores FLAP's lost output
    changed = np.frombuffer(file.read_bytes(), np.uint8).copy()
    changed[-1] ^= 1
    file.write_bytes(changed.tobytes())
    found.add(replace(first).recipe)
    assert len(found) == 4, "read anew"
    assert before not in found
