"""The section `reference` of params.yaml: architecture and training of the reference model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lop.settings.types import (
    Count,
    NotNegative,
    Number,
    Positive,
    Section,
    Seed,
    Share,
)


class Shape(Section):
    """The size of the reference model."""

    layers: Count = Field(8, description="decoder layers")
    hidden: Count = Field(128, description="width of the decoder")
    heads: Count = Field(4, description="attention heads")
    kv_heads: Count = Field(2, description="key and value heads")
    ffn: Count = Field(720, description="FFN neurons in each layer")
    vocab: Count = Field(2048, description="tokens in the vocabulary")
    vision_layers: Count = Field(4, description="layers of the vision tower")
    vision_hidden: Count = Field(128, description="width of the vision tower")
    vision_heads: Count = Field(4, description="attention heads of the vision tower")
    vision_ffn: Count = Field(128, description="FFN neurons in each layer of the vision tower")


class Stage(Section):
    """A stage of the reference model's training."""

    steps: Count = Field(description="steps of the learning rate schedule, warm-up and cosine")
    knowledge_share: Share = Field(description="share of pictures that are flags and emoji")
    shape_weight: NotNegative = Field(description="weight of the shape head's loss")
    lr: Positive = Field(0.003, description="peak learning rate of AdamW")
    muon_lr: Positive = Field(0.02, description="peak learning rate of Muon")
    warmup: Number = Field(100, description="warm-up steps")
    ffn: Count = Field(720, description="FFN neurons in each layer from this stage on")
    stop: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="the stage ends after this share of its steps"
    )


STAGES = [
    Stage(steps=3240, knowledge_share=0.35, shape_weight=1.0, ffn=48, stop=0.96),
    Stage(steps=1300, knowledge_share=0.75, shape_weight=0.0, lr=0.002, warmup=50),
    Stage(steps=300, knowledge_share=0.85, shape_weight=0.0, lr=0.0015, muon_lr=0.015, warmup=30),
]


class Reference(Section):
    """The training of the reference model; to repeat it, run `dvc unfreeze reference` first."""

    seed: Seed = Field(0, description="random seed of weights and samples")
    shape: Shape = Shape()
    rows: Count = Field(64, description="pictures in a step")
    row_tokens: Count = Field(96, description="text tokens for each picture")
    weight_decay: NotNegative = Field(0.01, description="weight decay of AdamW and Muon")
    bf16: bool = Field(False, description="compute in bfloat16, if the CPU supports it")
    compiled: bool = Field(True, description="compile the training step; needs a C++ compiler")
    threads: Count = Field(2, description="threads of torch")
    stages: Annotated[list[Stage], Field(min_length=1)] = Field(
        STAGES, description="training stages, in order"
    )
