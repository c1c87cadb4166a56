"""The section `recover` of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from lop.settings.types import Count, NotNegative, Part, Positive, Ratio, Section, Seed, Several

OwnMethod = Literal["lop", "knapsack", "uniform", "random"]


class Recovery(Section):
    """The training that gives back what pruning costs, at all budgets in one run."""

    methods: Several[OwnMethod] = Field(
        ["lop"],
        description="whose plans the model is trained at: `lop`, `knapsack`, `uniform`, `random`; "
        "of several, a step takes one by chance",
    )
    low: Ratio | None = Field(
        None, description="the smallest ratio that a step draws; `null`: the predictor's, or 0.1 …"
    )
    high: Ratio | None = Field(
        None,
        description="… and the largest; `null`: the predictor's, or 0.8; in between all are alike "
        "likely",
    )
    whole: Part = Field(
        0.2, description="share of the steps at the whole model, so that it stays what it is"
    )
    steps: Count = Field(200, description="of the optimizer, AdamW; the rate rises and falls")
    batch_size: Count = Field(64, description="samples at once")
    places: Count | None = Field(
        None,
        description="tokens of a batch whose loss is computed, drawn by chance, where a large "
        "vocabulary costs more than the decoder; `null`: all",
    )
    accumulation: Count = Field(1, description="batches a step")
    lr: Positive = Field(0.0005, description="peak learning rate")
    weight_decay: NotNegative = Field(0.01, description="of AdamW")
    rank: Count | None = Field(
        None,
        description="train low-rank adapters (LoRA) of this rank, which are merged at the end; "
        "`null` trains all of the decoder but its embeddings",
    )
    right: NotNegative = Field(
        0.0, description="weight of the right answers' cross-entropy, where samples have answers …"
    )
    text: NotNegative = Field(
        0.2,
        description="… and of the divergence from the unpruned model at the text of questions; "
        "that at answers has weight 1",
    )
    hidden: NotNegative = Field(
        0.0,
        description="weight of the squared distance of hidden states after each layer from the "
        "unpruned model's, in units of theirs; takes memory for one a layer and token of text",
    )
    bf16: bool = Field(False, description="compute in bfloat16; weights learn in float32 anyway")
    checkpointing: bool = Field(
        False, description="compute layers again in backward passes instead of keeping them"
    )
    seed: Seed = Field(0, description="of batches and budgets")

    @model_validator(mode="after")
    def _ordered(self) -> Recovery:
        if self.low is not None and self.high is not None and self.low > self.high:
            given = {"low": self.low, "high": self.high}
            raise PydanticCustomError("order", "low {low} is above high {high}", given)
        return self
