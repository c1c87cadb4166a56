"""The vLLM plugin without vLLM: how a layer is built from its own config."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from torch import nn

from lop.engines import vllm as plugin
from lop.models.space import find_space
from lop.plan import Plan
from lop.pruning import prune


def pruned(name="Llama", kept=None, scope="ffn+attention", means=None):
    """A tiny pruned model, attention before FFN in each of its three layers."""
    model, _ = tiny.build(name)
    space = find_space(model, scope, {"ffn": 0, "attention": 0})
    plan = Plan(space, kept or (1, 20, 2, 48, 1, 7))
    scores = [torch.arange(float(units)) for units in space.units]
    prune(model, plan, scores, means, scope=scope)
    return model.config.get_text_config()


def linear(inputs, outputs):
    found = nn.Linear(inputs, outputs, bias=False)
    found.output_size, found.weight_loader = outputs, "a loader"
    return found


def builder(text, head_dim=8):
    """What stands for vLLM's layer class: it reads the one config, as they all do."""

    def build(prefix):
        layer = nn.Module()
        layer.mlp, layer.self_attn = nn.Module(), nn.Module()
        layer.mlp.down_proj = linear(text.intermediate_size, text.hidden_size)
        layer.self_attn.o_proj = linear(text.num_attention_heads * head_dim, text.hidden_size)
        layer.self_attn.head_dim, layer.kv_heads = head_dim, text.num_key_value_heads
        return layer

    return build


def context(**names):
    return SimpleNamespace(
        compilation_config=SimpleNamespace(static_forward_context=dict.fromkeys(names.values()))
    )


def built(text, layer):
    return plugin.layer_of(text, context(), builder(text), f"model.layers.{layer}")


def test_each_layer_has_its_own_widths_and_heads():
    text = pruned()
    layers = [
        plugin.layer_of(text, context(), builder(text), f"model.layers.{i}") for i in (0, 1, 2)
    ]
    assert [layer.mlp.down_proj.in_features for layer in layers] == [20, 48, 7]
    assert [layer.self_attn.o_proj.in_features for layer in layers] == [16, 32, 16]
    assert [layer.kv_heads for layer in layers] == [1, 2, 1]


def test_the_config_is_as_before_also_after_an_error():
    text = pruned()
    before = text.to_dict()

    def build(prefix):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        plugin.layer_of(text, context(), build, "model.layers.1")
    plugin.layer_of(text, context(), builder(text), "model.layers.0")
    assert text.to_dict() == before
    assert text.is_heterogeneous


def test_a_skipped_site_gives_zeros_and_needs_no_cache():
    text = pruned(kept=(1, 20, 0, 0, 1, 7))
    vllm_config = context(a="model.layers.1.self_attn.attn", b="model.layers.11.self_attn.attn")
    layer = plugin.layer_of(text, vllm_config, builder(text), "model.layers.1")
    states = torch.randn(5, text.hidden_size)
    assert torch.equal(layer.mlp(states), torch.zeros_like(states))
    by_name = layer.self_attn(positions=torch.arange(5), hidden_states=states)
    assert torch.equal(by_name, torch.zeros_like(states))
    assert torch.equal(layer.self_attn(torch.arange(5), states), torch.zeros_like(states))
    left = vllm_config.compilation_config.static_forward_context
    assert list(left) == ["model.layers.11.self_attn.attn"]
    assert not list(layer.parameters())


def test_compensation_has_room_for_its_biases():
    means = [torch.ones(48)] * 3
    text = pruned(kept=(20, 0, 7), scope="ffn", means=means)
    layers = [built(text, i) for i in (0, 1)]
    assert layers[0].mlp.down_proj.bias.weight_loader == "a loader"
    skipped = dict(layers[1].mlp.named_parameters())
    assert list(skipped) == ["down_proj.bias"]
    skipped["down_proj.bias"].data.fill_(3)
    assert torch.equal(layers[1].mlp(torch.zeros(2, 32)), torch.full((2, 32), 3.0))


def test_a_class_that_makes_other_heads_is_refused():
    text = pruned()
    with pytest.raises(ValueError, match="Module makes heads of 16, the model's are of 8"):
        plugin.layer_of(text, context(), builder(text, head_dim=16), "model.layers.0")


def test_a_class_with_other_names_is_refused():
    text = pruned()
    with pytest.raises(ValueError, match=r"layers\.0: vLLM's Linear has no mlp\.down_proj"):
        plugin.layer_of(text, context(), lambda prefix: nn.Linear(1, 1), "model.layers.0")


def test_sizes_that_a_config_has_by_nature_are_refused():
    text = pruned()
    text.pruned_ffn = text.pruned_ffn | {"widths": [20, 48, 7]}
    with pytest.raises(ValueError, match="expected per_layer_config"):
        plugin.check(text)


def test_dense_models_are_left_alone():
    model, _ = tiny.build("Llama")
    assert not plugin.is_pruned(model.config)
    assert plugin.is_pruned(pruned())


def test_vllm_finds_it_and_it_needs_nothing_else():
    entry = tomllib.loads(Path("pyproject.toml").read_text())["project"]["entry-points"]
    value = entry["vllm.general_plugins"]["lop"]
    assert EntryPoint("lop", value, "vllm.general_plugins").load() is plugin.register
    code = "import sys, lop.engines.vllm; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
