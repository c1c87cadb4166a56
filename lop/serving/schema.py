"""What goes over the wire, typed; unknown fields, strings for numbers and NaN are refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lop.serving.jobs import NAME

MOST_RATIOS = 32  # a request

Ratio = Annotated[
    float,
    Field(
        strict=True, allow_inf_nan=False, description="share of FFN neurons to remove, in [0, 1)"
    ),
]
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]


class Request(BaseModel):
    """What every request has in common."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"ratio": 0.37}]})


class PlanRequest(Request):
    """One ratio, or several."""

    ratio: Ratio | None = None
    ratios: Annotated[list[Ratio], Field(min_length=1, max_length=MOST_RATIOS)] | None = None

    @model_validator(mode="after")
    def _one(self) -> PlanRequest:
        if (self.ratio is None) == (self.ratios is None):
            raise ValueError("expected one of ratio and ratios")
        return self

    def budgets(self) -> list[float]:
        """The pruning ratios asked for. Sizes, once they can be asked for, become ratios here."""
        return [self.ratio] if self.ratio is not None else self.ratios or []


class CheckpointRequest(Request):
    """A checkpoint to cut."""

    ratio: Ratio
    name: Name | None = Field(None, description="its id; default lop-RATIO")


class PlanAnswer(BaseModel):
    """How many FFN neurons each layer keeps."""

    ratio: float = Field(description="as asked for")
    ratios: list[float] = Field(description="share each layer loses")
    kept: list[int] = Field(description="neurons each layer keeps")
    widths: list[int] = Field(description="neurons each layer has")
    parameters: int | None = Field(description="of the whole pruned model, if known")
    reduction: float | None = Field(description="share of the whole model removed, if known")
    predictor_version: str


class PlansAnswer(BaseModel):
    """A plan a ratio, in the order asked for."""

    plans: list[PlanAnswer]


class FileAnswer(BaseModel):
    """A file of a checkpoint, at /checkpoints/{id}/files/{name}."""

    name: str
    bytes: int


class CheckpointAnswer(BaseModel):
    """A pruning job and, when it is done, its files; times are seconds since 1970."""

    id: str
    ratio: float
    state: Literal["queued", "running", "done", "failed"]
    error: str | None = Field(description="one line, when it failed")
    predictor_version: str | None = Field(description="that it is cut with, once it runs")
    created: float
    finished: float | None
    files: list[FileAnswer]


class CheckpointsAnswer(BaseModel):
    """All checkpoints, oldest first."""

    checkpoints: list[CheckpointAnswer]


class ModelAnswer(BaseModel):
    """What is served, and of which model."""

    predictor: str = Field(description="where it comes from")
    version: str = Field(description="the registry's, or the fingerprint of a directory")
    fingerprint: str = Field(description="of the predictor's files")
    kind: str
    min_ratio: float
    max_ratio: float
    model_fingerprint: str
    widths: list[int] = Field(description="FFN neurons of each layer")
    parameters: int | None = Field(description="of the whole dense model, if known")
    score: str
    compensate: bool
    stale: bool = Field(description="whether its source cannot be asked whether this is the newest")
    stale_seconds: float | None = Field(description="since its source confirmed it; null: not yet")
    error: str | None = Field(description="why the source's newest is not served, in one line")
    lop: str = Field(description="version of lop")


class HealthAnswer(BaseModel):
    """`live` whenever it answers; `ready` when a plan came out, else the status is 503."""

    live: bool
    ready: bool
    stale: bool
    predictor_version: str


class ErrorAnswer(BaseModel):
    """What every 4xx and 5xx says: one line."""

    error: str
