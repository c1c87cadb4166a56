"""What a cut changes in a checkpoint, and what it leaves alone."""

import copy
import json

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from tiny import TEXT, build

from lop.errors import LopError
from lop.models.checkpoint import load
from lop.models.space import find_ffns
from lop.models.stored import Stored
from lop.models.weights import INDEX
from lop.plan import Plan, Space
from lop.pruning import masked, prune, prune_checkpoint


@torch.inference_mode()
def logits(model, inputs):
    return model(**inputs).logits


def scores_of(widths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(width, generator=generator) for width in widths]


def cut(source, out, plan=None, compensate=False, padded=False):
    """Cut a folder to `plan`, or to nothing less, with scores and means of a fixed seed."""
    stored = Stored(source)
    plan = plan or stored.space().dense
    means = scores_of(plan.space.units, 1) if compensate else None
    prune_checkpoint(stored, plan, scores_of(plan.space.units), out, means, padded)
    return out


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def changed(before, after):
    """The paths of all values that differ, or are in one of two configs alone."""
    return {
        (key, *rest)
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
        for rest in (
            changed(before[key], after[key])
            if isinstance(before.get(key), dict) and isinstance(after.get(key), dict)
            else [()]
        )
    }


def older(config):
    """As transformers 4 wrote it: RoPE's base stands on its own."""
    text = config["text_config"]
    text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
    config["transformers_version"] = "4.57.6"
    return config


def flat(config):
    """As Qwen2.5-VL's are on the hub: the text config's values at the top."""
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text |= {"rope_theta": rope["rope_theta"]}
    text |= {"rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}}
    return {k: v for k, v in text.items() if k != "model_type"} | config


@pytest.mark.parametrize(("name", "rewrite"), [("LLaVA-1.5", older), ("Qwen2.5-VL", flat)])
def test_pruning_changes_widths_in_the_config_and_nothing_else(name, rewrite, tmp_path):
    model, inputs = build(name)
    dense = tmp_path / "dense"
    model.save_pretrained(dense)
    before = rewrite(config_of(dense))
    (dense / "config.json").write_text(json.dumps(before))
    assert config_of(cut(dense, tmp_path / "same")) == before

    place = ("text_config",) if "text_config" in before else ()
    uniform = config_of(cut(dense, tmp_path / "uniform", Plan.uniform(Space.ffns((48,) * 3), 0.5)))
    assert changed(before, uniform) == {(*place, "intermediate_size")}

    plan = Plan(Space.ffns((48,) * 3), (10, 20, 30))
    after = config_of(cut(dense, tmp_path / "small", plan))
    new = {("text_config", key) for key in ("per_layer_config", "pruned_ffn")}
    assert changed(before, after) == {("auto_map",)} | (new if place else {("text_config",)})
    small = load(tmp_path / "small")
    assert [ffn.units for ffn in find_ffns(small)] == [10, 20, 30]
    expected = prune(load(dense), plan, scores_of(plan.space.units))
    assert torch.equal(logits(small, inputs), logits(expected, inputs))

    padded = config_of(cut(dense, tmp_path / "padded", plan, padded=True))
    assert changed(before, padded) == {(*place, "intermediate_size")}


def test_what_is_cut_to_one_width_again_is_an_ordinary_model(tmp_path):
    model, _ = build("Llama")
    model.save_pretrained(tmp_path / "dense")
    cut(tmp_path / "dense", tmp_path / "small", Plan(Space.ffns((48,) * 3), (20, 30, 40)))
    cut(tmp_path / "small", tmp_path / "even", Plan(Space.ffns((20, 30, 40)), (20, 20, 20)))
    assert changed(config_of(tmp_path / "dense"), config_of(tmp_path / "even")) == {
        ("intermediate_size",)
    }
    assert not (tmp_path / "even" / "modeling_lop.py").exists()
    assert type(tf.AutoModelForCausalLM.from_pretrained(tmp_path / "even")) is tf.LlamaForCausalLM


def test_code_beside_a_model_goes_with_the_stock_class_alone(tmp_path):
    dense = tmp_path / "dense"
    build("Llama")[0].save_pretrained(dense)
    config = config_of(dense) | {"auto_map": {"AutoModelForCausalLM": "modeling_x.Llama"}}
    (dense / "config.json").write_text(json.dumps(config))
    (dense / "modeling_x.py").write_text("raise RuntimeError('was run')")
    plan = Plan(Space.ffns((48,) * 3), (20, 30, 40))
    padded = cut(dense, tmp_path / "padded", plan, padded=True)
    assert config_of(padded)["auto_map"] == config["auto_map"]
    assert (padded / "modeling_x.py").exists()
    small = cut(dense, tmp_path / "small", plan)
    ours = {"AutoModelForCausalLM": "modeling_lop.LlamaForCausalLM"}
    assert config_of(small)["auto_map"] == ours
    assert [file.name for file in small.glob("*.py")] == ["modeling_lop.py"]


@pytest.mark.parametrize("name", ["Llama", "Phi-2"])  # without and with a bias of its own
def test_compensated_models_are_cut_again_and_their_biases_add_up(name, tmp_path):
    model, inputs = build(name)
    model.save_pretrained(tmp_path / "dense")
    first, second = (
        Plan(Space.ffns((48,) * 3), (30, 40, 20)),
        Plan(Space.ffns((30, 40, 20)), (20, 20, 11)),
    )
    cut(tmp_path / "dense", tmp_path / "file", first, compensate=True)
    memory = prune(model, first, scores_of(first.space.units), scores_of(first.space.units, 1))
    memory.save_pretrained(tmp_path / "memory")
    once = find_ffns(load(tmp_path / "file"))[0].out.bias.clone()
    for compensate in (True, False):
        means = scores_of(second.space.units, 1) if compensate else None
        again = cut(tmp_path / "file", tmp_path / f"file{compensate}", second, compensate)
        small = prune(load(tmp_path / "memory"), second, scores_of(second.space.units), means)
        small.save_pretrained(tmp_path / f"memory{compensate}")
        for folder in (again, tmp_path / f"memory{compensate}"):
            assert torch.equal(logits(load(folder), inputs), logits(small, inputs))
        assert once.equal(find_ffns(small)[0].out.bias) is not compensate


def test_compensated_and_padded_needs_a_bias_of_the_architecture(tmp_path):
    plan = Plan(Space.ffns((48,) * 3), (30, 40, 20))
    model, inputs = build("Phi-2")
    model.save_pretrained(tmp_path / "phi")
    cut(tmp_path / "phi", tmp_path / "small", plan, compensate=True)
    cut(tmp_path / "phi", tmp_path / "padded", plan, compensate=True, padded=True)
    stock = tf.PhiForCausalLM.from_pretrained(tmp_path / "padded")
    torch.testing.assert_close(logits(stock, inputs), logits(load(tmp_path / "small"), inputs))

    build("Llama")[0].save_pretrained(tmp_path / "llama")
    cut(tmp_path / "llama", tmp_path / "has-biases", plan, compensate=True)
    again = Plan(Space.ffns(plan.kept), (20, 20, 20))
    for source, what, compensate in (("llama", plan, True), ("has-biases", again, False)):
        with pytest.raises(LopError, match="no room for the compensation's bias"):
            cut(tmp_path / source, tmp_path / "x", what, compensate, padded=True)
    assert not (tmp_path / "x").exists()


def test_a_bias_keeps_its_dtype(tmp_path):
    model, inputs = build("Phi-2")
    model.bfloat16().save_pretrained(tmp_path / "dense")
    file = tmp_path / "dense" / "model.safetensors"
    tensors = load_file(file)
    key = "model.layers.{}.mlp.fc2.bias"
    exact = torch.linspace(-1, 1, 32) / 3
    tensors |= {key.format(layer): exact.clone() for layer in range(3)}
    save_file(tensors, file, {"format": "pt"})
    plan = Plan(Space.ffns((48,) * 3), (30, 40, 20))
    cut(tmp_path / "dense", tmp_path / "small", plan, compensate=True)
    weight = tensors["model.layers.0.mlp.fc2.weight"].float()
    gone = torch.ones(48, dtype=torch.bool)
    gone[torch.argsort(scores_of(plan.space.units)[0], descending=True, stable=True)[:30]] = False
    expected = exact + weight[:, gone] @ scores_of(plan.space.units, 1)[0][gone]
    found = load_file(tmp_path / "small" / "model.safetensors")
    torch.testing.assert_close(found[key.format(0)], expected)
    small = load(tmp_path / "small")
    assert torch.equal(find_ffns(small)[0].out.bias, expected.bfloat16())
    assert logits(small, inputs).isfinite().all()


def test_nothing_lost_needs_no_bias(tmp_path):
    model, _ = build("Llama")
    model.save_pretrained(tmp_path / "dense")
    cut(tmp_path / "dense", tmp_path / "same", compensate=True)
    assert config_of(tmp_path / "same") == config_of(tmp_path / "dense")
    plan = Plan.uniform(Space.ffns((48,) * 3), 0)
    same = prune(
        copy.deepcopy(model), plan, scores_of(plan.space.units), scores_of(plan.space.units)
    )
    assert same.state_dict().keys() == model.state_dict().keys()


def test_where_one_width_in_the_config_does_not_make_the_shapes_each_layer_says_its_own(tmp_path):
    # OPT calls the width `ffn_dim`: the stock class would build another one
    config = tf.OPTConfig(**TEXT, ffn_dim=48, word_embed_proj_dim=32)
    torch.manual_seed(0)
    tf.OPTForCausalLM(config).save_pretrained(tmp_path / "dense")
    plan, inputs = Plan.uniform(Space.ffns((48,) * 3), 0.5), {"input_ids": torch.arange(5)[None]}
    dense = load(tmp_path / "dense")
    with masked(dense, plan, scores_of(plan.space.units)):
        expected = logits(dense, inputs)
    small = load(cut(tmp_path / "dense", tmp_path / "small", plan))
    torch.testing.assert_close(logits(small, inputs), expected)
    memory = prune(dense, plan, scores_of(plan.space.units))
    memory.save_pretrained(tmp_path / "memory")
    assert torch.equal(logits(load(tmp_path / "memory"), inputs), logits(small, inputs))
    with pytest.raises(LopError, match="no padded format"):
        cut(
            tmp_path / "dense",
            tmp_path / "x",
            Plan(Space.ffns((48,) * 3), (20, 30, 22)),
            padded=True,
        )


def test_a_config_that_is_heterogeneous_by_nature_stays_so(tmp_path):
    config = tf.Gemma4UnifiedTextConfig(**TEXT)
    by_nature = config.per_layer_attributes
    assert by_nature
    torch.manual_seed(0)
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "dense")
    loaded = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
    assert "modeling_lop" not in type(loaded).__module__  # after `import lop`, as before
    plan, inputs = Plan(Space.ffns((48,) * 3), (10, 20, 30)), {"input_ids": torch.arange(5)[None]}
    dense = load(tmp_path / "dense")
    with masked(dense, plan, scores_of(plan.space.units)):
        expected = logits(dense, inputs)
    small = load(cut(tmp_path / "dense", tmp_path / "small", plan))
    torch.testing.assert_close(logits(small, inputs), expected)
    assert small.config.per_layer_attributes == by_nature
    prune(dense, plan, scores_of(plan.space.units)).save_pretrained(tmp_path / "memory")
    assert torch.equal(logits(load(tmp_path / "memory"), inputs), logits(small, inputs))


def test_shards_keep_their_names_and_their_index(tmp_path):
    model, inputs = build("Llama")
    dense = tmp_path / "dense"
    model.save_pretrained(dense)
    (dense / "part").mkdir()  # one shard only, and in a folder of its own
    (dense / "model.safetensors").rename(dense / "part" / "model-00001-of-00001.safetensors")
    names = dict.fromkeys(load_file(dense / "part" / "model-00001-of-00001.safetensors"))
    index = {
        "metadata": {},
        "weight_map": dict.fromkeys(names, "part/model-00001-of-00001.safetensors"),
    }
    (dense / INDEX).write_text(json.dumps(index))
    (dense / "pytorch_model.bin.index.json").write_text("{}")  # of files that are not cut
    small = cut(dense, tmp_path / "small", Plan(Space.ffns((48,) * 3), (10, 20, 30)))
    assert json.loads((small / INDEX).read_text())["weight_map"] == index["weight_map"]
    assert not (small / "pytorch_model.bin.index.json").exists()
    expected = prune(model, Plan(Space.ffns((48,) * 3), (10, 20, 30)), scores_of((48,) * 3))
    assert torch.equal(logits(load(small), inputs), logits(expected, inputs))
