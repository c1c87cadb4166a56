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
    """The pruned checkpoints to write."""

    methods: Several[Method] = Field(
        ["lop_recovered", "lop", "knapsack", "uniform", "magnitude", "wanda_sp", "flap"],
        description="`lop`, `knapsack`, `uniform`, `random`, `magnitude`, `wanda_sp`, `flap`; and "
        "`lop_recovered`, `knapsack_recovered` and `uniform_recovered`, which apply the same plans "
        "to recovered weights",
    )
    ratios: Several[Budget] = Field(
        [0.2, 0.3, 0.5, 0.7, 0.8],
        description="pruning ratios, in the predictor's range; there is one checkpoint for each "
        "method and ratio. `size 9GB`, `params 5.2B`, `flops_per_token 9G` or `latency 0.7x` "
        "stands for the ratio at which all methods meet this target",
    )
    latency_profile: Text | None = Field(
        None,
        description="latency profile written by `lop latency`, for latency targets. DVC does not "
        "detect changes of this file: after a change, run `dvc repro --force --single-item prune`",
    )
    elsewhere: bool = Field(
        False,
        description="accept a latency profile of another machine, where checkpoints will run",
    )
    keep: Literal["all", "none"] | Several[Text | Ratio] = Field(
        "all",
        description="checkpoints to keep in data/pruned: `all`, `none`, or a list of methods, "
        "ratios and names such as `lop-0.5`; all others are written for the evaluation, once for "
        "the answers and once for size and speed, and then deleted",
    )
    format: Format = Field(
        "per_layer",
        description="`per_layer`: each site has its own size; `padded`: all sites are padded with "
        "zeros to the largest one, for standard model loaders",
    )
