"""One elastic checkpoint is every smaller one: its sites compute with the front of their units."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
import transformers as tf
from kits import make_kit
from safetensors.torch import load_file, save_file
from tiny import build
from transformers import DynamicCache

import lop
from lop.errors import LopError
from lop.kit import Kit
from lop.models.stored import Stored
from lop.steps.pruning import Cutter, prune_one

NAMES = ("Llama", "Qwen2.5-VL")
SCOPES = ("ffn", "ffn+attention")
SKIPPING = {"ffn": 0, "attention": 0}  # sites may keep no unit


@torch.inference_mode()
def logits(model, inputs):
    return model(**inputs).logits


def same(found, expected):
    """Sums in another order differ by some float32 roundings of the largest logit."""
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


def pack(root, name="Llama", scope="ffn+attention", compensate=False, **options):
    """A dense model and its elastic checkpoint in a folder; returns model and inputs."""
    model, inputs = build(name)
    model.save_pretrained(root / "dense", **options)
    kit = make_kit(root, root / "dense", scope, compensate, SKIPPING)
    lop.pack(root / "dense", kit, root / "elastic")
    return model, inputs


def prune(root, source, ratio):
    kit = Kit.load(root / "kit" if source == "dense" else root / source / "kit")
    cutter = Cutter.of_kit(str(root / source), kit)
    return prune_one(root / f"{source}-{ratio}", "lop", ratio, cutter)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", [*NAMES, "Phi-3"])  # the last one's maps are fused
def test_packing_changes_the_order_of_units_and_nothing_else(name, scope, tmp_path):
    model, inputs = pack(tmp_path, name, scope)
    shapes = [
        {
            key: (t.shape, t.dtype)
            for key, t in load_file(tmp_path / of / "model.safetensors").items()
        }
        for of in ("dense", "elastic")
    ]
    assert shapes[0] == shapes[1]
    configs = [(tmp_path / of / "config.json").read_text() for of in ("dense", "elastic")]
    assert json.loads(configs[0]) == json.loads(configs[1])
    stock = type(model).from_pretrained(tmp_path / "elastic")
    assert type(stock) is getattr(tf, type(model).__name__)
    same(logits(stock, inputs), logits(model, inputs))
    before, after = (Stored(tmp_path / of) for of in ("dense", "elastic"))
    assert before.fingerprint != after.fingerprint
    said = json.loads((tmp_path / "elastic" / "elastic.json").read_text())
    assert (said["source_fingerprint"], said["model_fingerprint"]) == (
        before.fingerprint,
        after.fingerprint,
    )
    assert "lop.resize" in (tmp_path / "elastic" / "README.md").read_text()


@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_budget_is_the_checkpoint_of_that_budget(name, scope, compensate, tmp_path):
    _, inputs = pack(tmp_path, name, scope, compensate)
    for ratio in (0.3, 0.55):
        plan = prune(tmp_path, "dense", ratio)
        assert prune(tmp_path, "elastic", ratio) == plan
        assert scope == "ffn" or 0 in plan.kept  # a site is skipped
        dense, cut = (lop.load(tmp_path / f"{of}-{ratio}") for of in ("dense", "elastic"))
        same(logits(cut, inputs), logits(dense, inputs))
        loaded = lop.load(tmp_path / "elastic", ratio=ratio)
        same(logits(loaded, inputs), logits(cut, inputs))
        there, wanted = loaded.state_dict(), cut.state_dict()
        assert there.keys() == wanted.keys()
        for key, tensor in wanted.items():
            torch.testing.assert_close(there[key], tensor, atol=1e-6, rtol=0)
        answers = [of.generate(**inputs, max_new_tokens=4, do_sample=False) for of in (loaded, cut)]
        assert torch.equal(*answers)


@pytest.mark.parametrize("name", [*NAMES, "Phi-2", "Phi-3"])  # with biases, and with fused maps
def test_a_resized_model_is_as_one_loaded_at_that_size(name, tmp_path):
    dense, inputs = pack(tmp_path, name, compensate=True)
    model = lop.load(tmp_path / "elastic", ratio=0.5)
    for ratio in (0.6, 0.2, 0.37, 0.5):  # down, up beyond what was loaded, down, and back
        assert lop.resize(model, ratio=ratio) is model
        fresh = lop.load(tmp_path / "elastic", ratio=ratio)
        same(logits(model, inputs), logits(fresh, inputs))
        assert model.state_dict().keys() == fresh.state_dict().keys()
        assert model.config.to_dict() == fresh.config.to_dict()
    lop.resize(model, ratio=0)
    same(logits(model, inputs), logits(dense, inputs))
    lop.resize(model, ratio=0.3).save_pretrained(tmp_path / "saved")
    saved = lop.load(tmp_path / "saved")
    same(logits(saved, inputs), logits(model, inputs))


def test_sharded_files_in_bfloat16_are_read_as_they_are(tmp_path):
    model, inputs = build("Qwen2.5-VL")
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    model.bfloat16().save_pretrained(tmp_path / "dense", max_shard_size="40KB")
    kit = make_kit(tmp_path, tmp_path / "dense", "ffn+attention", True)
    lop.pack(tmp_path / "dense", kit, tmp_path / "elastic")
    assert len(list((tmp_path / "elastic").glob("model-*.safetensors"))) > 2
    prune(tmp_path, "elastic", 0.4)
    cut, loaded = lop.load(tmp_path / "elastic-0.4"), lop.load(tmp_path / "elastic", ratio=0.4)
    assert loaded.dtype == torch.bfloat16
    gap = (logits(loaded, inputs) - logits(cut, inputs)).abs().max()
    assert gap < 0.02 * logits(cut, inputs).abs().max()
    lop.resize(loaded, ratio=0.2)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def test_what_a_plan_drops_is_not_read(tmp_path):
    _, inputs = pack(tmp_path, scope="ffn")
    expected = lop.load(tmp_path / "elastic", ratio=0.5)
    plan = expected.elastic.elastic.kept
    file = tmp_path / "elastic" / "model.safetensors"
    tensors = load_file(file)
    for layer, kept in enumerate(plan):
        for name in ("gate_proj", "up_proj"):
            tensors[f"model.layers.{layer}.mlp.{name}.weight"][kept:] = float("nan")
        tensors[f"model.layers.{layer}.mlp.down_proj.weight"][:, kept:] = float("nan")
    wanted = logits(expected, inputs)
    save_file(tensors, tmp_path / "new", {"format": "pt"})
    os.replace(tmp_path / "new", file)  # who has the old file mapped goes on with that
    same(logits(lop.load(tmp_path / "elastic", ratio=0.5), inputs), wanted)
    assert torch.equal(logits(expected, inputs), wanted)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_cache_is_good_at_the_size_at_which_it_was_filled_alone(scope, tmp_path):
    _, inputs = pack(tmp_path, scope=scope)
    model, other = (lop.load(tmp_path / "elastic", ratio=r) for r in (0.5, 0.3))
    cache, more = DynamicCache(config=model.config), torch.tensor([[5], [6]])

    def step(of):
        with torch.inference_mode():
            return of(input_ids=more, past_key_values=cache).logits

    with torch.inference_mode():
        model(input_ids=inputs["input_ids"], past_key_values=cache)
    step(model)
    lop.resize(model, ratio=0.3)
    for wrong in (model, other):
        with pytest.raises(LopError, match="filled at another size of the model.*new cache"):
            step(wrong)
    lop.resize(model, ratio=0.5)
    after = step(model)[:, -1]
    ids = torch.cat([inputs["input_ids"], more, more], 1)
    whole = logits(model, {"input_ids": ids})[:, -1]
    same(after, whole)
    dense = lop.load(tmp_path / "dense")
    with torch.inference_mode():
        filled = dense(input_ids=inputs["input_ids"]).past_key_values
        with pytest.raises(LopError, match="or by another model"):
            model(input_ids=more, past_key_values=filled)


def test_targets_are_met_as_prune_meets_them(tmp_path):
    pack(tmp_path)
    cutter = Cutter.of_kit(str(tmp_path / "elastic"), Kit.load(tmp_path / "elastic" / "kit"))
    dense = sum(p.numel() for p in lop.load(tmp_path / "elastic").parameters())
    model = lop.load(tmp_path / "elastic", ratio=0.2)
    for kind, target in (("params", "25K"), ("size", "100KB"), ("flops_per_token", "45K")):
        _, plan = cutter.meeting(kind, target)
        assert lop.load(tmp_path / "elastic", **{kind: target}).elastic.elastic.kept == plan.kept
        assert lop.resize(model, **{kind: target}).elastic.elastic.kept == plan.kept
    small = lop.resize(model, params=25_000)
    assert sum(p.numel() for p in small.parameters()) <= 25_000 < dense
    before = model.elastic.elastic.kept
    for budget, says in (
        ({"params": "1K"}, "parameters of 1,000 cannot be met"),
        ({"ratio": 0.9}, "pruning ratio 0.9: expected"),
        ({"ratio": 0.2, "size": "1MB"}, "expected one of ratio, params, .* got 2"),
        ({}, "expected one of ratio, params, .* got 0"),
        ({"latency": "0.7x"}, "needs a latency profile"),
    ):
        with pytest.raises(LopError, match=says):
            lop.resize(model, **budget)
        assert model.elastic.elastic.kept == before
        if budget:
            with pytest.raises(LopError, match=says):
                lop.load(tmp_path / "elastic", **budget)


def test_bad_input_is_one_line(tmp_path):
    model, _ = pack(tmp_path)
    with pytest.raises(LopError, match="dense: is not an elastic checkpoint.*`lop pack` makes one"):
        lop.load(tmp_path / "dense", ratio=0.3)
    with pytest.raises(LopError, match="was not loaded from an elastic checkpoint at a budget"):
        lop.resize(model, ratio=0.3)
    with pytest.raises(LopError, match="expected no dtype"):
        lop.load(tmp_path / "elastic", dtype=torch.bfloat16, ratio=0.3)
    with pytest.raises(LopError, match="scores of model"):  # the kit is of the dense model
        lop.pack(tmp_path / "elastic", Kit.load(tmp_path / "kit"), tmp_path / "again")
    assert not (tmp_path / "again").exists()
    with pytest.raises(LopError, match="is an input of this command"):
        lop.pack(tmp_path / "dense", Kit.load(tmp_path / "kit"), tmp_path / "dense")
    loaded = lop.load(tmp_path / "elastic", ratio=0.3).bfloat16()
    with pytest.raises(LopError, match="was converted to torch.bfloat16"):
        lop.resize(loaded, ratio=0.4)
    shutil.rmtree(tmp_path / "elastic" / "kit")
    with pytest.raises(LopError, match="kit: is not a kit: it is not there"):
        lop.load(tmp_path / "elastic", ratio=0.3)


def test_an_elastic_checkpoint_is_packed_again_to_the_same(tmp_path):
    _, inputs = pack(tmp_path)
    kit = Kit.load(tmp_path / "elastic" / "kit")
    lop.pack(tmp_path / "elastic", kit, tmp_path / "again")
    files = [tmp_path / of / "model.safetensors" for of in ("elastic", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
    prune(tmp_path, "again", 0.3)
    assert not (tmp_path / "again-0.3" / "elastic.json").exists()
    assert torch.isfinite(logits(lop.load(tmp_path / "again-0.3"), inputs)).all()


def test_recovered_weights_are_packed_with_the_kit_of_the_model_before(tmp_path):
    model, inputs = build("Llama")
    model.save_pretrained(tmp_path / "dense")
    kit = make_kit(tmp_path, tmp_path / "dense", compensate=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    model.save_pretrained(tmp_path / "after")
    said = {"recovered_from": kit.about.model_fingerprint, "fingerprint": "x"}
    (tmp_path / "after" / "recovery.json").write_text(json.dumps(said))
    lop.pack(tmp_path / "after", kit, tmp_path / "elastic")
    assert not (tmp_path / "elastic" / "recovery.json").exists()
    same(logits(lop.load(tmp_path / "elastic"), inputs), logits(model, inputs))
    loaded = lop.load(tmp_path / "elastic", ratio=0.4)
    expected = lop.prune(model, kit.predictor.plan(0.4), kit.score())
    same(logits(loaded, inputs), logits(expected, inputs))
    said["recovered_from"] = "other"
    (tmp_path / "after" / "recovery.json").write_text(json.dumps(said))
    with pytest.raises(LopError, match="recovered from model other"):
        lop.pack(tmp_path / "after", kit, tmp_path / "x")


MEASURE = """
import gc, pathlib, sys, torch, lop
def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
ids = torch.arange(3, 40)[None]
with torch.inference_mode():
    lop.load(sys.argv[1], ratio=0.3)(input_ids=ids)  # imports, and what torch keeps for itself
    gc.collect()
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    options = {"ratio": float(sys.argv[3])} if len(sys.argv) > 3 else {}
    lop.load(sys.argv[2], **options)(input_ids=ids)
print(peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux' /proc")
def test_memory_is_that_of_the_cut_checkpoint_and_a_tensor_more(tmp_path):
    config = tf.LlamaConfig(
        hidden_size=256, intermediate_size=16384, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=4, vocab_size=200, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    tf.LlamaForCausalLM(config).save_pretrained(tmp_path / "dense")
    kit = make_kit(tmp_path, tmp_path / "dense")
    lop.pack(tmp_path / "dense", kit, tmp_path / "elastic")
    prune(tmp_path, "elastic", 0.5)
    (tmp_path / "tiny").mkdir()
    pack(tmp_path / "tiny")
    run = [sys.executable, "-c", MEASURE, str(tmp_path / "tiny" / "elastic")]

    def peak(*words):
        told = subprocess.run([*run, *map(str, words)], capture_output=True, text=True, check=True)
        return int(told.stdout.split()[-1])

    small, tensor = peak(tmp_path / "elastic-0.5"), 256 * 16384 * 4
    assert peak(tmp_path / "elastic", 0.5) < small + 1.5 * tensor  # and what else is in between
    model = lop.load(tmp_path / "elastic", ratio=0.5)
    begun = time.perf_counter()
    lop.resize(model, ratio=0.3)
    assert time.perf_counter() - begun < 0.5  # some milliseconds, on a machine at work
