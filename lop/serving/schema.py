"""What goes over the wire, typed; unknown fields, strings for numbers and NaN are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lop.models.costs import COSTS
from lop.plan import Kind
from lop.serving.jobs import NAME, State

MOST_RATIOS = 32  # a request

Ratio = Annotated[
    float,
    Field(strict=True, allow_inf_nan=False, description="share of the scope to remove, in [0, 1)"),
]
Amount = Annotated[str, Field(max_length=32)]
KINDS = (*COSTS, "latency")
BUDGETS = {"ratio", "ratios", *KINDS}
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]


class Request(BaseModel):
    """What every request has in common."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"ratio": 0.37}]})


class Target(Request):
    """One budget: a ratio, or what becomes one (`lop.models.costs`)."""

    ratio: Ratio | None = None
    params: Amount | None = Field(None, description="parameters of the whole model: 5.2B")
    size: Amount | None = Field(None, description="bytes on disk: 9GB, 8.5GiB")
    flops_per_token: Amount | None = Field(None, description="of its language model: 9G")
    latency: Amount | None = Field(
        None, description="of the latency profile's request: 0.7x of the dense model's, or 120ms"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        names = [name for name in type(self).model_fields if name in BUDGETS]
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"expected one of {', '.join(names)}")
        return self

    def budget(self, ratio_for: Callable[[str, str], float]) -> float:
        """The pruning ratio asked for; `ratio_for(kind, amount)` turns other targets into one."""
        if self.ratio is not None:
            return self.ratio
        asked = {kind: getattr(self, kind) for kind in KINDS}
        return next(ratio_for(kind, amount) for kind, amount in asked.items() if amount is not None)


class PlanRequest(Target):
    """One budget, or several ratios."""

    ratios: Annotated[list[Ratio], Field(min_length=1, max_length=MOST_RATIOS)] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether ratios are asked for, and no other target."""
        return self.ratio is not None or self.ratios is not None

    def budgets(self, ratio_for: Callable[[str, str], float]) -> list[float]:
        """The pruning ratios asked for."""
        return self.ratios or [self.budget(ratio_for)]


class CheckpointRequest(Target):
    """A checkpoint to cut."""

    name: Name | None = Field(None, description="its id; default lop-RATIO")


class Expected(BaseModel):
    """What a model is predicted to be worth, between what a kit's plans were measured at."""

    metric: str = Field(description="accuracy, loglik, kl or kl_text; a mean over samples")
    value: float
    dense: float = Field(description="of the whole model")
    speed: float | None = Field(description="times the whole model's, by the latency profile")
    samples: int = Field(description="that plans were measured on")


class PlanAnswer(BaseModel):
    """How many units each site keeps: neurons of an FFN, heads of attention."""

    ratio: float = Field(description="as asked for")
    ratios: list[float] = Field(description="share each site loses")
    kept: list[int] = Field(description="units each site keeps")
    units: list[int] = Field(description="units each site has")
    kinds: list[Kind] = Field(description="what each site is")
    layers: list[int] = Field(description="decoder layer of each site")
    parameters: int = Field(description="of the whole pruned model")
    reduction: float = Field(description="share of the whole model removed")
    bytes: int = Field(description="of the whole pruned model's weights on disk")
    expected: Expected | None = Field(description="null: there is no kit with figures")
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
    ratio: float = Field(description="share of the scope removed")
    parameters: int | None = Field(description="of the whole pruned model, when it is done")
    reduction: float | None = Field(description="share of the whole model removed")
    state: State
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
    scope: str = Field(description="what is cut: ffn or ffn+attention")
    units: list[int] = Field(description="units of each site")
    kinds: list[Kind] = Field(description="what each site is")
    layers: list[int] = Field(description="decoder layer of each site")
    parameters: int = Field(description="of the whole dense model")
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
    error: str | None = Field(description="one line, when it is not ready")


class ErrorAnswer(BaseModel):
    """What every 4xx and 5xx says: one line."""

    error: str
