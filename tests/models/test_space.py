"""Which of a model's feed-forward networks are its decoder's, and what is refused by name."""

import pytest
import torch
import transformers as tf
from tiny import TEXT, VIT, build

from lop.errors import LopError
from lop.models.space import find_ffns


def test_a_tower_with_as_many_layers_is_not_the_decoder():
    model, _ = build("Llama")
    tower = tf.CLIPVisionModel(tf.CLIPVisionConfig(**VIT | {"num_hidden_layers": 3}))
    model.model._modules = {"vision_tower": tower, **model.model._modules}  # it comes first
    assert [ffn.name for ffn in find_ffns(model)] == [f"model.layers.{i}.mlp" for i in range(3)]


def test_a_tower_beside_a_language_model_is_not_the_decoder():
    config = tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**VIT | {"num_hidden_layers": 3}),
        text_config=tf.LlamaConfig(**TEXT), image_token_index=90, vision_feature_layer=-1,
    )  # fmt: skip
    model = tf.LlavaForConditionalGeneration(config)
    model.get_decoder = lambda: model.model  # as where transformers knows no better
    names = [ffn.name for ffn in find_ffns(model)]
    assert names == [f"model.language_model.layers.{i}.mlp" for i in range(3)]


def test_a_norm_over_the_neurons_is_refused_by_name():
    with torch.device("meta"):
        model = tf.BitNetForCausalLM(tf.BitNetConfig(**TEXT))
    with pytest.raises(LopError, match=r"layers\.0\.mlp\.ffn_sub_norm\.weight: is a parameter of"):
        find_ffns(model)


def test_a_scale_of_the_neurons_is_refused_by_name():
    model, _ = build("Phi-3")  # gate and up fused: 96 rows
    model.model.layers[1].mlp.register_buffer("scale", torch.ones(96))
    with pytest.raises(LopError, match=r"layers\.1\.mlp\.scale: is a parameter of the FFN's 48"):
        find_ffns(model)


def test_a_layer_that_is_the_ffn_itself_may_have_tensors_of_the_hidden_size():
    # OPT's fc1 and fc2 stand beside norms and attention, here all of one size
    config = tf.OPTConfig(**TEXT, ffn_dim=32, word_embed_proj_dim=32)
    assert [ffn.units for ffn in find_ffns(tf.OPTForCausalLM(config))] == [32] * 3


def test_parameters_that_are_not_the_neurons_are_left_alone():
    model, _ = build("Llama")
    for layer in model.model.layers:
        layer.mlp.norm = torch.nn.LayerNorm(32)  # of the hidden size
    assert len(find_ffns(model)) == 3
