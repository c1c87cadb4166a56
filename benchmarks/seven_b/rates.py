"""Speed of one core of this machine at the model's real shapes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from transformers import AutoImageProcessor
from transformers import Qwen2_5_VLForConditionalGeneration as Model

from benchmarks.common import MODEL
from benchmarks.seven_b.shape import TOKENS, config, linear
from lop.evaluation.footprint import memory_meter
from lop.importance import Stats


@dataclass(frozen=True)
class Rates:
    """Measurements on one core of this machine."""

    processor: float  # seconds a picture
    layer: float  # FLOPs a second of a decoder layer
    product: float  # FLOPs a second of one large product of matrices
    stats: float  # seconds that scoring adds to a sample and layer
    stats_bytes: int  # memory of scoring besides a batch's activations
    digest: float  # bytes a second


def measured() -> Rates:
    """The rates of this machine at the model's real shapes, on one core."""
    torch.set_num_threads(1)
    model = Model(config(layers=1, depth=1, vocabulary=64)).float().eval()
    layer, hidden = model.model.language_model.layers[0], torch.randn(1, TOKENS, 3584)
    flops = 2 * TOKENS * linear(layer) + 2 * TOKENS * TOKENS * hidden.shape[-1]
    weight = torch.randn(18_944, 3584)
    x = torch.randn(2, TOKENS, 18_944)
    mask = torch.ones(x.shape[:2], dtype=torch.long)
    stats = Stats.zeros(x.shape[-1])
    stats.add(x[:, :2], mask[:, :2])
    _, peak = memory_meter("cpu")
    stats.add(x, mask)
    stats_bytes, data = peak(), bytes(1 << 28)
    processor = AutoImageProcessor.from_pretrained(MODEL)
    pixels = 1008 * 1008
    picture = torch.randint(0, 255, (3, 1008, 1008), dtype=torch.uint8)
    size = {"longest_edge": pixels, "shortest_edge": pixels}
    asked = {"images": [picture], "return_tensors": "pt", "size": size}
    with torch.inference_mode():
        rotary = model.model.language_model.rotary_emb(
            hidden, torch.arange(TOKENS).expand(3, 1, TOKENS)
        )
        return Rates(
            seconds(lambda: processor(**asked)),
            flops / seconds(lambda: layer(hidden, position_embeddings=rotary)),
            2 * TOKENS * weight.numel() / seconds(lambda: hidden @ weight.T),
            seconds(lambda: stats.add(x, mask)) / len(x),
            stats_bytes,
            len(data) / seconds(lambda: hashlib.sha256(data).digest()),
        )


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """The median time of a call, after one warm-up call."""
    work()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return median(times)
