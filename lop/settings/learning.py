"""The settings of `lop learn` that have a default."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from lop.settings.params import Judging, Prepare, Quantizing, Search, Space
from lop.settings.types import Bits, Count, Positive, RewardKind, Seed, distinct


def _several(bits: list[Bits]) -> list[Bits]:
    if len(bits) == 1:
        raise ValueError("expected none, or two or three of 4, 8 and 16")
    return bits


JUDGING, SEARCH, PREPARE = Judging.model_fields, Search.model_fields, Prepare.model_fields


class Learning(Space, Quantizing):
    """Settings of a run that makes a kit."""

    hours: Positive | None = Field(
        None,
        description="time limit: numbers of samples and plans are chosen to fit the time, from a "
        "timed evaluation; without a limit, they are the defaults of params.yaml",
    )
    bits: Annotated[list[Bits], AfterValidator(distinct), AfterValidator(_several)] = Field(
        [],
        description="of 4, 8 and 16 (as stored), two or three: the kit learns plans of units and "
        "bits too, for any size",
    )
    reward: RewardKind = Field("loglik", description=JUDGING["reward"].description)
    window: Count = Field(128, description=PREPARE["window"].description)
    workers: Count = Field(1, description=SEARCH["workers"].description)
    batch_size: Count = Field(40, description=JUDGING["batch_size"].description)
    seed: Seed = Field(0, description="random seed of samples, searches and the predictor")
