"""The reference model: a Qwen2.5-VL small enough to train on two CPU cores, so that the whole
pipeline can run anywhere on a model that loses accuracy when neurons are removed.

Config, tokenizer, processor and model class are transformers' own.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from lop.models.space import find_ffns

SIZE, PATCH, MERGE = 64, 8, 2  # px, px, patches merged per side
GRID = SIZE // PATCH  # patches per side
IMAGE_TOKENS = (GRID // MERGE) ** 2
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
SPECIAL = (PAD, START, END, VISION_START, VISION_END, IMAGE, VIDEO)

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'text' -%}{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


@dataclass(frozen=True)
class Shape:
    """The final size of the reference model; `ffn` is the number of neurons per decoder layer."""

    layers: int = 8
    hidden: int = 128
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 720
    vocab: int = 2048
    vision_layers: int = 4
    vision_hidden: int = 128
    vision_heads: int = 4
    vision_ffn: int = 128
    init_std: float = 0.02


def build_tokenizer(texts: Iterable[str], vocab: int) -> Qwen2Tokenizer:
    """A Qwen2 tokenizer (byte-level BPE) with `vocab` entries, special tokens included."""
    blank: Any = Qwen2Tokenizer()._tokenizer
    trained = Tokenizer(models.BPE())
    trained.normalizer = blank.normalizer
    trained.pre_tokenizer = blank.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    merges: Any = [tuple(pair) for pair in model["merges"]]
    return Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=merges,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[t for t in SPECIAL if t not in (END, PAD)],
    )


def build_processor(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLProcessor:
    """The stock processor for 64 x 64 px in patches of 8: 16 image tokens per picture."""
    pixels = {"shortest_edge": SIZE * SIZE, "longest_edge": SIZE * SIZE}
    options: dict[str, Any] = {
        "size": pixels,
        "patch_size": PATCH,
        "merge_size": MERGE,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**options),
        video_processor=Qwen2VLVideoProcessor(**options),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )


def build_config(tokenizer: Qwen2Tokenizer, shape: Shape) -> Qwen2_5_VLConfig:
    """The config of a Qwen2.5-VL of this shape; all vision layers have full attention."""
    ids: dict[str, Any] = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    half = shape.hidden // shape.heads // 2
    temporal = half // 4
    side = (half - temporal) // 2
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": shape.hidden,
            "intermediate_size": shape.ffn,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "max_position_embeddings": 512,
            "initializer_range": shape.init_std,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [half - 2 * side, side, side],
            },
            "bos_token_id": None,
            "eos_token_id": ids[END],
            "pad_token_id": ids[PAD],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": shape.vision_layers,
            "hidden_size": shape.vision_hidden,
            "intermediate_size": shape.vision_ffn,
            "num_heads": shape.vision_heads,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "out_hidden_size": shape.hidden,
            "window_size": SIZE,
            "fullatt_block_indexes": list(range(shape.vision_layers)),
            "initializer_range": shape.init_std,
        },
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=True,
    )


def build_model(
    tokenizer: Qwen2Tokenizer, shape: Shape, seed: int
) -> Qwen2_5_VLForConditionalGeneration:
    """A randomly initialised fp32 model; the same seed gives the same weights."""
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(build_config(tokenizer, shape))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
        do_sample=False,
    )
    return model


def widen(model: Qwen2_5_VLForConditionalGeneration, width: int) -> None:
    """Widen every decoder FFN to `width` neurons; new ones have random inputs and zero outputs.

    So the model computes the same as before, and training can use the new neurons (Chen et al.,
    Net2Net, 2016, with zeros instead of copies).
    """
    for ffn in find_ffns(model):
        more = width - ffn.units
        for linear in map(ffn.map, ffn.inputs):
            fresh = torch.randn(more, linear.in_features) * linear.weight.std()
            linear.weight = nn.Parameter(torch.cat([linear.weight.detach(), fresh]))
            linear.out_features = width
        ffn.out.weight = nn.Parameter(F.pad(ffn.out.weight.detach(), (0, more)))
        ffn.out.in_features = width
    model.config.get_text_config().intermediate_size = width


def save(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, folder: Path
) -> None:
    """Write model and processor to a folder for `from_pretrained`."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
