"""What the options of several commands have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from lop.cli.paths import File, Folder, KitPlace
from lop.settings import params as settings
from lop.settings.types import (
    Format,
    Ratio,
    Section,
    Text,
)


def task(text: Any) -> Any:
    """Parse `NAME` or `NAME=PATH` to the form of a task in params.yaml."""
    name, equals, data = str(text).partition("=")
    return {name: data} if equals else name


def same(model: type[Section], name: str) -> Any:
    """An option with the default and description of a setting in params.yaml."""
    return model.model_fields[name]


def check_one(given: Section, *names: str) -> None:
    """Reject options unless exactly one of `names` is given."""
    if sum(getattr(given, name) is not None for name in names) != 1:
        *most, last = (f"--{name.replace('_', '-')}" for name in names)
        text = f"expected one of {', '.join(most)} and {last}"
        raise PydanticCustomError("one_of", "{text}", {"text": text})


POSITIONAL: Any = {"positional": True}


class OfModel(Section):
    model: Text = Field(description="Hugging Face model directory, dense or pruned")


class OfScores(OfModel, settings.Scored):
    scores: Folder = Field(description="directory with the scores")


class OfJudging(OfScores, settings.Judging):
    samples: File = Field(description="reward samples (Parquet)")


class Kitted(OfModel, settings.Scored):
    """The inputs that pruning needs: a kit, or single parts, which take precedence over a kit's."""

    kit: KitPlace | None = Field(
        None, description="directory or models:/NAME@ALIAS of a kit, instead of its parts"
    )
    scores: Folder | None = Field(None, description="directory with the scores, if there is no kit")
    predictor: Text | None = Field(
        None, description="directory or models:/NAME@ALIAS of the predictor, for method lop"
    )

    @model_validator(mode="after")
    def _kit_or_scores(self) -> Kitted:
        check_one(self, "kit", "scores")
        return self


class Cutting(Kitted):
    recovered: Folder | None = Field(
        None,
        description="directory written by `lop recover`, for the methods that prune recovered "
        "weights",
    )
    profile: File | None = Field(None, description="profile, for method knapsack")
    format: Format = same(settings.Prune, "format")
    widest: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="largest share of its neurons that any FFN keeps"
    )
    latency_profile: File | None = Field(
        None, description="latency profile written by `lop latency`, for --latency"
    )
    elsewhere: bool = Field(
        False,
        description="accept a latency profile of another machine, where the checkpoint will run",
    )
    sibling: bool = Field(
        False, description="accept predictor and scores of other weights, with a warning"
    )


class Budgeted(Section):
    """One budget: a ratio, or a target that is converted to a ratio."""

    ratio: Ratio | None = Field(None, description="share of the scope to remove, in [0, 1)")
    params: Text | None = Field(
        None, description="instead of a ratio: parameters of the whole model, such as 5.2B"
    )
    size: Text | None = Field(
        None,
        description="instead of a ratio: bytes on disk, at the model's dtype, such as 9GB, 8.5GiB",
    )
    flops_per_token: Text | None = Field(
        None,
        description="instead of a ratio: FLOPs per token of the language model, such as 9G",
    )
    latency: Text | None = Field(
        None,
        description="instead of a ratio: latency of the latency profile's request, such as 120ms, "
        "or 0.7x of the dense model's",
    )
