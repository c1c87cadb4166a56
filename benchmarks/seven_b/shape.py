"""Qwen2.5-VL-7B in numbers, counted on its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import Qwen2_5_VLConfig
from transformers import Qwen2_5_VLForConditionalGeneration as Model

PATCHES, IMAGE, TEXT = 5184, 1296, 54  # a picture of 1,008 x 1,008 pixels; tokens beside it
TOKENS = IMAGE + TEXT
BYTES = 2  # of a number in bfloat16


@dataclass(frozen=True)
class Shape:
    """The model in numbers: parameters, and FLOPs of one sample's forward pass."""

    parameters: int
    layers: int
    hidden: int
    width: int
    ffn: float  # share of a decoder layer's FLOPs
    cache: int  # bytes of keys and values a token
    decoder: float
    vision: float

    @property
    def weights(self) -> int:
        """Bytes."""
        return BYTES * self.parameters

    @property
    def captured(self) -> int:
        """Bytes of a sample's embeddings, or of its hidden states at one layer."""
        return BYTES * TOKENS * self.hidden

    @property
    def activations(self) -> int:
        """Bytes of a sample in one layer: gate, up and their product, and some hidden states."""
        return BYTES * TOKENS * (3 * self.width + 6 * self.hidden)


def config(layers: int = 28, depth: int = 32, vocabulary: int = 152_064) -> Any:
    """That of Qwen/Qwen2.5-VL-7B-Instruct."""
    text = {
        "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": layers,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24],
        },
    }  # fmt: skip
    vision = {
        "depth": depth, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
        "out_hidden_size": 3584, "patch_size": 14, "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }  # fmt: skip
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)


def shape() -> Shape:
    """The model's numbers, counted on its tensors without memory."""
    made = config()
    with torch.device("meta"):
        model = Model(made)
    text, vision = made.text_config, made.vision_config
    layer = model.model.language_model.layers[0]
    causal = 2 * TOKENS * TOKENS * text.hidden_size  # scores and values, half of the square
    one_layer = 2 * TOKENS * linear(layer) + causal
    whole = len(vision.fullatt_block_indexes)
    window = (vision.window_size // vision.patch_size) ** 2
    seen = whole * PATCHES + (vision.depth - whole) * window
    head = text.hidden_size // text.num_attention_heads
    return Shape(
        sum(p.numel() for p in model.parameters()),
        text.num_hidden_layers,
        text.hidden_size,
        text.intermediate_size,
        2 * TOKENS * linear(layer.mlp) / one_layer,
        2 * BYTES * text.num_hidden_layers * text.num_key_value_heads * head,
        text.num_hidden_layers * one_layer,
        2 * PATCHES * linear(model.model.visual.blocks)
        + 2 * IMAGE * linear(model.model.visual.merger)
        + 4 * PATCHES * seen * vision.hidden_size,
    )


def linear(module: nn.Module) -> int:
    """Weights of a module's linear maps."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))
