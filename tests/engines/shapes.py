"""Tiny random text models as the engines want them: heads of sizes that they know."""

import tiny
import torch
import transformers as tf
from tiny import TEXT, text_ids

from lop.models.space import find_sites, space_of
from lop.models.stored import Stored
from lop.plan import Plan
from lop.pruning import prune_checkpoint

# A plan's units by kind of site and layer: nothing, a few, all.
CASES = {
    "neurons": {"ffn": (12, 31, 48, 7)},
    "heads": {"ffn": (12, 31, 48, 7), "attention": (1, 2, 1, 2)},
    "sites": {"ffn": (12, 31, 0, 7), "attention": (1, 0, 0, 2)},
    "layers": {"ffn": (0, 31, 48, 0), "attention": (0, 2, 1, 2)},
    "biases": {"ffn": (12, 31, 48, 7)},
}


def config(kind, **more):
    shape = {"num_hidden_layers": 4, "head_dim": 32, "hidden_size": 64, "vocab_size": 300}
    return getattr(tf, f"{kind}Config")(**TEXT | shape | more), {"input_ids": text_ids()}


SHAPES = {
    "Llama": lambda: config("Llama"),
    "Qwen2": lambda: config("Qwen2", hidden_size=128),
    "Qwen3": lambda: config("Qwen3"),
    "Gemma 2": lambda: config("Gemma2", query_pre_attn_scalar=32),
    "Gemma 3": lambda: config(
        "Gemma3Text",
        query_pre_attn_scalar=32,
        sliding_window=16,
        tie_word_embeddings=False,
        layer_types=["sliding_attention"] * 3 + ["full_attention"],
    ),
}


def write(folder, config_and_inputs, cases=tuple(CASES)):
    """A dense checkpoint, and its pruned ones by case."""
    tiny.ARCHITECTURES["it"] = config_and_inputs
    try:
        model, _ = tiny.build("it")
    finally:
        del tiny.ARCHITECTURES["it"]
    for name, weight in model.named_parameters():  # else a tied token says itself again
        if "post_feedforward" in name:
            weight.data.fill_(20.0)
    model.save_pretrained(folder / "dense")
    source = Stored(folder / "dense")
    for case in cases:
        kept, drawn = CASES[case], torch.Generator().manual_seed(1)
        scope = "ffn+attention" if "attention" in kept else "ffn"
        space = space_of(find_sites(source.model, scope), {"ffn": 0, "attention": 0})
        units = [
            kept[kind][layer % 4] for kind, layer in zip(space.kinds, space.layers, strict=True)
        ]
        scores = [torch.rand(size, generator=drawn) for size in space.units]
        means = [torch.randn(size, generator=drawn) for size in space.units]
        compensated = means if case == "biases" else None
        prune_checkpoint(source, Plan(space, tuple(units)), scores, folder / case, compensated)
    return ["dense", *cases]
