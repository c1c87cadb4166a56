import copy
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, Qwen2_5_VLForConditionalGeneration

from lop.data.encoding import encode
from lop.errors import LopError
from lop.models.checkpoint import load, load_processor, save
from lop.models.site import lost_output
from lop.models.space import find_ffns, find_space
from lop.models.stored import Stored
from lop.plan import Plan, Space
from lop.pruning import kept_units, masked, prune, prune_checkpoint

SPACE = Space.ffns((40, 40, 40))
PLAN = Plan.from_ratios([0.1, 0.5, 0.9], SPACE, 0.5)


@pytest.fixture
def batch(model, processor, samples):
    return next(encode(samples, model, processor, batch_size=6))


@torch.inference_mode()
def logits(model, batch):
    return model(**batch.inputs).logits


def test_masked_equals_sliced_equals_reloaded(model, processor, scores, batch, tmp_path):
    dense = logits(model, batch)
    with masked(model, PLAN, scores):
        expected = logits(model, batch)
    assert (dense - expected).abs().max() > 1e-2
    small = prune(copy.deepcopy(model), PLAN, scores)
    torch.testing.assert_close(logits(small, batch), expected, atol=1e-5, rtol=0)
    save(small, processor, tmp_path / "small")
    reloaded = load(tmp_path / "small")
    assert torch.equal(logits(reloaded, batch), logits(small, batch))
    torch.testing.assert_close(logits(model, batch), dense, atol=0, rtol=0)


def test_the_checkpoint_has_exactly_the_parameters_the_plan_promises(model, scores):
    dense = sum(p.numel() for p in model.parameters())
    small = prune(copy.deepcopy(model), PLAN, scores)
    removed = sum(SPACE.units) - sum(PLAN.kept)
    assert sum(PLAN.kept) == 60
    assert dense - sum(p.numel() for p in small.parameters()) == removed * 3 * 32


WITHOUT_LOP = """
import sys
sys.modules["lop"] = None  # as if it were not installed
import torch
from transformers import AutoModelForImageTextToText
path, inputs, out = sys.argv[1:]
try:
    AutoModelForImageTextToText.from_pretrained(path)
except RuntimeError as error:
    assert "intermediate_size" in str(error), error
else:
    raise AssertionError("stock classes loaded a pruned checkpoint")
model = AutoModelForImageTextToText.from_pretrained(path, trust_remote_code=True).eval()
with torch.inference_mode():
    torch.save(model(**torch.load(inputs)).logits, out)
"""


def test_a_pruned_checkpoint_loads_without_lop_or_not_at_all(
    model, processor, scores, batch, tmp_path
):
    small = prune(model, PLAN, scores)
    save(small, processor, tmp_path / "small")
    text = json.loads((tmp_path / "small" / "config.json").read_text())["text_config"]
    assert text["per_layer_config"]["2"] == {"intermediate_size": PLAN.kept[2]}
    torch.save(batch.inputs, tmp_path / "inputs")
    places = [tmp_path / name for name in ("small", "inputs", "logits")]
    subprocess.run([sys.executable, "-c", WITHOUT_LOP, *places], check=True)
    assert torch.equal(torch.load(tmp_path / "logits"), logits(small, batch))


def test_after_import_lop_the_auto_class_loads_it(model, processor, scores, batch, tmp_path):
    small = prune(model, PLAN, scores)
    small.save_pretrained(tmp_path / "small")  # as `push_to_hub` does
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "small")
    assert torch.equal(logits(loaded, batch), logits(small, batch))


def test_the_padded_format_is_a_stock_checkpoint_with_the_same_output(
    model_dir, model, scores, batch, tmp_path
):
    source = Stored(model_dir)
    prune_checkpoint(source, PLAN, scores, tmp_path / "padded", padded=True)
    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "padded")
    assert [ffn.units for ffn in find_ffns(stock)] == [max(PLAN.kept)] * 3
    assert load(tmp_path / "padded").state_dict().keys() == stock.state_dict().keys()
    small = prune(model, PLAN, scores)
    torch.testing.assert_close(logits(stock, batch), logits(small, batch), atol=1e-5, rtol=0)
    record = json.loads((tmp_path / "padded" / "pruning.json").read_text())
    assert record["parameters"] == sum(p.numel() for p in small.parameters())
    assert record["stored_parameters"] == sum(p.numel() for p in stock.parameters())
    with pytest.raises(LopError, match="no room for the compensation's bias"):
        prune_checkpoint(source, PLAN, scores, tmp_path / "x", scores, padded=True)
    assert not (tmp_path / "x").exists()


def test_a_model_of_uneven_sites_is_padded_to_the_largest_kept(model_dir, batch, tmp_path):
    """Also beyond what a site had, heads and neurons."""
    dense = Stored(model_dir)
    heads, space = dense.space("ffn+attention").units[0], dense.space("ffn+attention")
    uneven = Plan(space, (heads, 40, 1, 20, heads, 30))
    again = (heads, 28, 1, 20, 1, 12)

    def cut(source, kept, name, padded=False):
        plan = Plan(source.space("ffn+attention"), kept)
        scores = [torch.arange(float(units)) for units in plan.space.units]
        prune_checkpoint(source, plan, scores, tmp_path / name, padded=padded)
        return json.loads((tmp_path / name / "pruning.json").read_text())

    cut(dense, uneven.kept, "uneven")
    plain, filled = (
        cut(Stored(tmp_path / "uneven"), again, f"padded-{padded}", padded)
        for padded in (False, True)
    )
    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "padded-True").eval()
    small = load(tmp_path / "padded-False")
    assert find_space(stock, "ffn+attention").units == (heads, 28) * 3
    torch.testing.assert_close(logits(stock, batch), logits(small, batch), atol=1e-5, rtol=0)
    assert filled["stored_parameters"] == sum(p.numel() for p in stock.parameters())
    counts = plain["parameters"], filled["parameters"], plain["stored_parameters"]
    assert set(counts) == {sum(p.numel() for p in small.parameters())}


def test_what_is_beside_the_weights_travels_along(model_dir, model, scores, batch, tmp_path):
    generation = json.loads((model_dir / "generation_config.json").read_text())
    (model_dir / "generation_config.json").write_text(json.dumps(generation | {"top_k": 7}))
    load(model_dir, dtype=torch.bfloat16).save_pretrained(model_dir, max_shard_size="100KB")
    (model_dir / "model.safetensors").unlink()
    assert len(list(model_dir.glob("*.safetensors"))) > 1
    means = [s / 10 for s in scores]
    prune_checkpoint(Stored(model_dir), PLAN, scores, tmp_path / "small", means)
    small = load(tmp_path / "small")
    assert small.dtype == torch.bfloat16
    assert small.get_output_embeddings().weight is small.get_input_embeddings().weight
    assert small.generation_config.top_k == 7
    assert load_processor(tmp_path / "small").chat_template
    memory = prune(load(model_dir), PLAN, scores, means)
    batch.inputs["pixel_values"] = batch.inputs["pixel_values"].bfloat16()
    assert torch.equal(logits(small, batch), logits(memory, batch))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-40]), "is cut short"),
        (lambda f: f.write_bytes(f.read_bytes()[:100]), "its header is cut short"),
        (lambda f: respoil(f, lambda t: t.pop("model.norm.weight")), "no tensor .*norm.weight"),
        (lambda f: respoil(f, lambda t: t["model.norm.weight"].fill_(float("nan"))), "not finite"),
        (
            lambda f: respoil(
                f, lambda t: t["model.layers.1.mlp.up_proj.weight"].fill_(float("inf"))
            ),
            "up_proj.weight has values that are not finite",
        ),
        (
            lambda f: respoil(f, lambda t: t.update({"model.layers.9.x": torch.ones(1)})),
            "layers.9.x is not in the config's model",
        ),
        (lambda f: f.rename(f.with_name("pytorch_model.bin")), "is a pickle.*convert it"),
    ],
)
def test_a_broken_checkpoint_is_one_line_and_writes_nothing(
    spoil, says, model_dir, scores, tmp_path
):
    spoil(model_dir / "model.safetensors")
    with pytest.raises(LopError, match=says):
        prune_checkpoint(Stored(model_dir), PLAN, scores, tmp_path / "small")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def respoil(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def test_a_pruned_checkpoint_generates(model, processor, scores, batch, tmp_path):
    save(prune(model, PLAN, scores), processor, tmp_path / "small")
    reloaded = load(tmp_path / "small")
    out = reloaded.generate(**batch.inputs, max_new_tokens=3, do_sample=False)
    assert out.shape[0] == 6


def test_highest_scores_stay_and_ties_go_to_the_lower_index():
    plan = Plan(Space.ffns((5, 4)), (2, 3))
    kept = kept_units([torch.tensor([3.0, 9, 1, 7, 2]), torch.ones(4)], plan)
    assert [k.tolist() for k in kept] == [[1, 3], [0, 1, 2]]


def test_compensation_adds_the_mean_output_of_pruned_neurons(model, scores, batch, tmp_path):
    ffn = find_ffns(model)[0]
    mean = torch.linspace(0, 1, 40)
    kept = torch.arange(30)
    expected = ffn.out.weight[:, 30:] @ mean[30:]
    torch.testing.assert_close(lost_output(ffn.out.weight, kept, mean), expected)


def test_a_compensated_checkpoint_survives_reloading(
    model, processor, scores, batch, samples, tmp_path
):
    means = [torch.rand(40) for _ in SPACE.units]
    small = prune(model, PLAN, scores, means)
    save(small, processor, tmp_path / "small")
    assert torch.equal(logits(load(tmp_path / "small"), batch), logits(small, batch))
    assert find_ffns(small)[0].out.bias is not None


def test_bad_scores_and_plans_are_refused(model, scores):
    with pytest.raises(LopError, match="site 1 has scores that are not finite"):
        prune(model, PLAN, [scores[0], scores[1] * float("nan"), scores[2]])
    with pytest.raises(LopError, match="scores for 2 sites, the model has 3"):
        prune(model, PLAN, scores[:2])
    with pytest.raises(LopError, match=r"the model has \(40, 40, 40\)"):
        prune(model, Plan(Space.ffns((30, 40, 40)), (3, 40, 40)), scores)
    assert [ffn.units for ffn in find_ffns(model)] == [40, 40, 40]
