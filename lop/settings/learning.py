"""The settings of `lop learn` that have a default."""

from __future__ import annotations

from pydantic import Field

from lop.settings.params import Judging, Prepare, Search, Space
from lop.settings.types import Count, Positive, RewardKind, Seed

JUDGING, SEARCH, PREPARE = Judging.model_fields, Search.model_fields, Prepare.model_fields


class Learning(Space):
    """Settings of a run that makes a kit."""

    hours: Positive | None = Field(
        None,
        description="time limit: numbers of samples and plans are chosen to fit the time, from a "
        "timed evaluation; without a limit, they are the defaults of params.yaml",
    )
    reward: RewardKind = Field("loglik", description=JUDGING["reward"].description)
    window: Count = Field(128, description=PREPARE["window"].description)
    workers: Count = Field(1, description=SEARCH["workers"].description)
    batch_size: Count = Field(40, description=JUDGING["batch_size"].description)
    seed: Seed = Field(0, description="random seed of samples, searches and the predictor")
