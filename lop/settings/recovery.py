"""The section `recover` of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from lop.settings.types import Count, NotNegative, Part, Positive, Ratio, Section, Seed, Several

OwnMethod = Literal["lop", "knapsack", "uniform", "random"]


class Recovery(Section):
    """The training that recovers the quality lost by pruning, for all budgets in one run."""

    methods: Several[OwnMethod] = Field(
        ["lop"],
        description="methods whose plans are trained: `lop`, `knapsack`, `uniform`, `random`; each "
        "step draws one of them",
    )
    low: Ratio | None = Field(
        None,
        description="smallest ratio in training; `null`: the predictor's, or 0.1. Each step draws "
        "its ratio uniformly between `low` and `high`",
    )
    high: Ratio | None = Field(
        None, description="largest ratio in training; `null`: the predictor's, or 0.8"
    )
    whole: Part = Field(
        0.2, description="share of the steps that train the unpruned model, to keep its quality"
    )
    steps: Count = Field(
        200, description="optimizer steps (AdamW); the learning rate rises, then falls"
    )
    batch_size: Count = Field(64, description="samples in a batch")
    places: Count | None = Field(
        None,
        description="number of tokens of a batch, drawn at random, whose loss is computed; useful "
        "if a large vocabulary costs more than the decoder; `null`: all tokens",
    )
    accumulation: Count = Field(1, description="batches in a step")
    lr: Positive = Field(0.0005, description="peak learning rate")
    weight_decay: NotNegative = Field(0.01, description="weight decay of AdamW")
    rank: Count | None = Field(
        None,
        description="train low-rank adapters (LoRA) of this rank, which are merged at the end; "
        "`null` trains all weights of the decoder except embeddings",
    )
    right: NotNegative = Field(
        0.0,
        description="weight of the cross-entropy of the right answers, for samples with answers",
    )
    text: NotNegative = Field(
        0.2,
        description="weight of the divergence from the unpruned model at the questions' text "
        "tokens; the divergence at the answers has weight 1",
    )
    hidden: NotNegative = Field(
        0.0,
        description="weight of the squared distance between hidden states after each layer and the "
        "unpruned model's, relative to their size; needs memory for one hidden state for each "
        "layer and text token",
    )
    bf16: bool = Field(False, description="compute in bfloat16; the weights stay in float32")
    checkpointing: bool = Field(
        False, description="recompute layers in the backward pass instead of storing activations"
    )
    seed: Seed = Field(0, description="random seed of batches and budgets")

    @model_validator(mode="after")
    def _ordered(self) -> Recovery:
        if self.low is not None and self.high is not None and self.low > self.high:
            given = {"low": self.low, "high": self.high}
            raise PydanticCustomError("order", "low {low} is above high {high}", given)
        return self
