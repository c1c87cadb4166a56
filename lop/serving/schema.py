"""The types of request and response bodies; unknown fields, numbers as text and NaN are errors."""

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
    """The base class of request bodies."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"ratio": 0.37}]})


class Target(Request):
    """One budget: a ratio, or a target that is converted to one (`lop.models.costs`)."""

    ratio: Ratio | None = None
    params: Amount | None = Field(None, description="parameters of the whole model: 5.2B")
    size: Amount | None = Field(None, description="bytes on disk: 9GB, 8.5GiB")
    flops_per_token: Amount | None = Field(
        None, description="FLOPs per token of the language model: 9G"
    )
    latency: Amount | None = Field(
        None,
        description="latency of the latency profile's request: 120ms, or 0.7x the dense model's",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        names = [name for name in type(self).model_fields if name in BUDGETS]
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"expected one of {', '.join(names)}")
        return self

    def budget(self, ratio_for: Callable[[str, str], float]) -> float:
        """The requested pruning ratio; `ratio_for(kind, amount)` converts other targets to it."""
        if self.ratio is not None:
            return self.ratio
        given = {kind: getattr(self, kind) for kind in KINDS}
        return next(ratio_for(kind, amount) for kind, amount in given.items() if amount is not None)


class PlanRequest(Target):
    """One budget, or several ratios."""

    ratios: Annotated[list[Ratio], Field(min_length=1, max_length=MOST_RATIOS)] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the request gives ratios, not another target."""
        return self.ratio is not None or self.ratios is not None

    def budgets(self, ratio_for: Callable[[str, str], float]) -> list[float]:
        """The requested pruning ratios."""
        return self.ratios or [self.budget(ratio_for)]


class CheckpointRequest(Target):
    """A request for a pruned checkpoint."""

    name: Name | None = Field(None, description="name and id of the checkpoint; default lop-RATIO")


class Expected(BaseModel):
    """The expected quality of a pruned model, interpolated between the kit's measured plans."""

    metric: str = Field(description="accuracy, loglik, kl or kl_text; a mean over samples")
    value: float
    dense: float = Field(description="the same metric of the dense model")
    speed: float | None = Field(
        description="speed relative to the dense model, from the latency profile"
    )
    samples: int = Field(description="number of samples that the plans were measured on")


class PlanAnswer(BaseModel):
    """The number of units that each site keeps: neurons of an FFN, heads of attention."""

    ratio: float = Field(description="the requested ratio")
    ratios: list[float] = Field(description="share of its units that each site loses")
    kept: list[int] = Field(description="units that each site keeps")
    units: list[int] = Field(description="units of each site in the dense model")
    kinds: list[Kind] = Field(description="kind of each site")
    layers: list[int] = Field(description="decoder layer of each site")
    parameters: int = Field(description="parameters of the whole pruned model")
    reduction: float = Field(description="share of the whole model's parameters removed")
    bytes: int = Field(description="size of the whole pruned model's weights on disk")
    expected: Expected | None = Field(description="null if there is no kit with figures")
    predictor_version: str


class PlansAnswer(BaseModel):
    """One plan for each ratio, in the order of the request."""

    plans: list[PlanAnswer]


class FileAnswer(BaseModel):
    """A file of a checkpoint, at /checkpoints/{id}/files/{name}."""

    name: str
    bytes: int


class CheckpointAnswer(BaseModel):
    """A pruning job and, when it is done, its files; times are seconds since 1970."""

    id: str
    ratio: float = Field(description="share of the scope removed")
    parameters: int | None = Field(
        description="parameters of the whole pruned model, when the job is done"
    )
    reduction: float | None = Field(description="share of the whole model's parameters removed")
    state: State
    error: str | None = Field(description="one line, if the job failed")
    predictor_version: str | None = Field(
        description="version of the predictor that gave the plan, set when the job starts"
    )
    created: float
    finished: float | None
    files: list[FileAnswer]


class CheckpointsAnswer(BaseModel):
    """All checkpoints, oldest first."""

    checkpoints: list[CheckpointAnswer]


class ModelAnswer(BaseModel):
    """The current predictor and its model."""

    predictor: str = Field(description="source of the predictor: a directory or a registry URI")
    version: str = Field(description="version in the registry, or the fingerprint of a directory")
    fingerprint: str = Field(description="fingerprint of the predictor's files")
    kind: str
    min_ratio: float
    max_ratio: float
    model_fingerprint: str
    scope: str = Field(description="prunable parts: ffn or ffn+attention")
    units: list[int] = Field(description="units of each site")
    kinds: list[Kind] = Field(description="kind of each site")
    layers: list[int] = Field(description="decoder layer of each site")
    parameters: int = Field(description="parameters of the whole dense model")
    score: str
    compensate: bool
    stale: bool = Field(description="whether polling the predictor's source fails")
    stale_seconds: float | None = Field(
        description="seconds since the source confirmed this version; null if it never did"
    )
    error: str | None = Field(description="why the newest version is not used, in one line")
    lop: str = Field(description="version of lop")


class HealthAnswer(BaseModel):
    """`live` is always true; `ready` is false, with status 503, if no plan can be computed."""

    live: bool
    ready: bool
    stale: bool
    predictor_version: str
    error: str | None = Field(description="one line, if the service is not ready")


class ErrorAnswer(BaseModel):
    """The body of every 4xx and 5xx response."""

    error: str
