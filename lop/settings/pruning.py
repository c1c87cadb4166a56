"""The section `prune` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from lop.settings.types import Format, Method, Ratio, Section, Several, Text, text_like


def _kind_of_budget(value: Any) -> str:
    return "target" if isinstance(value, str) and " " in value else "ratio"


Target = Annotated[
    Text,
    text_like(
        r"(params|size|flops_per_token|latency) \S+",
        "such as size 9GB, params 5.2B, flops_per_token 9G or latency 0.7x",
    ),
]
Budget = Annotated[
    Annotated[Ratio, Tag("ratio")] | Annotated[Target, Tag("target")],
    Discriminator(_kind_of_budget),
]


class Prune(Section):
    """The checkpoints that are cut."""

    methods: Several[Method] = Field(
        ["lop_recovered", "lop", "knapsack", "uniform", "magnitude", "wanda_sp", "flap"],
        description="`lop`, `knapsack`, `uniform`, `random`, `magnitude`, `wanda_sp`, `flap`; and "
        "`lop_recovered`, `knapsack_recovered` and `uniform_recovered`, which cut the same plans "
        "out of the weights that recovery has trained",
    )
    ratios: Several[Budget] = Field(
        [0.2, 0.3, 0.5, 0.7, 0.8],
        description="a checkpoint a method and ratio; the predictor's range holds all of them. "
        "`size 9GB`, `params 5.2B`, `flops_per_token 9G` or `latency 0.7x` stands for the ratio at "
        "which all methods meet it",
    )
    latency_profile: Text | None = Field(
        None,
        description="what `lop latency` timed, for ratios by latency. DVC does not see a change of "
        "this file: then `dvc repro --force --single-item prune`",
    )
    elsewhere: bool = Field(
        False, description="whether that is of another machine, where checkpoints are to run"
    )
    keep: Literal["all", "none"] | Several[Text | Ratio] = Field(
        "all",
        description="checkpoints that stay in data/pruned: `all`, `none`, or a list of methods, "
        "ratios and names such as `lop-0.5`; the others are cut when they are evaluated, once for "
        "the answers and once for size and speed, and deleted",
    )
    format: Format = Field(
        "per_layer",
        description="`per_layer`: every site its own size; `padded`: zeros up to the largest, "
        "for stock loaders",
    )
