"""The HTTP interface: the routes, and the handlers that turn every error into one line of JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, StreamingResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from lop.errors import LopError
from lop.kit.figures import Figures
from lop.models.costs import Cost
from lop.plan import Plan, checkpoint_name
from lop.serving import refusal, schema
from lop.serving.champion import Champion, Served
from lop.serving.guard import Guard, Meters
from lop.serving.jobs import Job, Jobs
from lop.serving.planner import Busy, Planner
from lop.serving.streams import Archive, Streams

PROBE_SECONDS = 5.0
PAGE_HEADERS = {  # the page may send requests to this service only, and no site may embed it
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src data:; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; frame-ancestors 'none'"
}
ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": schema.ErrorAnswer}}


@dataclass(frozen=True)
class Parts:
    """The components of a service, and the facts about its model."""

    champion: Champion
    planner: Planner
    jobs: Jobs
    streams: Streams
    meters: Meters
    score: str
    compensate: bool
    parameters: Cost  # of the whole model
    size: Cost  # of the whole model
    ratio_for: Callable[[str, str], float]  # (kind, amount) as in `costs` -> pruning ratio
    figures: Figures | None = None  # of the kit
    of_version: str = ""  # version of the predictor that `figures` were measured with


def build_app(parts: Parts, token: str | None = None) -> FastAPI:
    """The application. While it runs, it polls the predictor's source for a newer version."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        polling = asyncio.create_task(_poll(parts.champion))
        yield
        polling.cancel()
        parts.planner.close()
        await asyncio.to_thread(parts.jobs.close)

    app = FastAPI(
        title="lop",
        summary="Plans and pruned checkpoints of one model, on demand",
        version=_version(),
        lifespan=life,
        redoc_url=None,
    )
    # HTTPBearer only documents the token in /docs; Guard checks it
    secured = [Depends(HTTPBearer(auto_error=False))] if token else []
    app.include_router(_plans(parts), dependencies=secured, responses=ERRORS)
    app.include_router(_checkpoints(parts), dependencies=secured, responses=ERRORS)
    app.include_router(_streams(parts), dependencies=secured, responses=ERRORS)
    app.include_router(_about(parts), dependencies=secured, responses=ERRORS)
    app.include_router(_health(parts))
    app.include_router(_page())
    app.add_middleware(Guard, token=token, meters=parts.meters)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(LopError, _on_lop)
    app.add_exception_handler(Exception, _on_bug)
    return app


async def _poll(champion: Champion) -> None:
    while True:
        await asyncio.to_thread(champion.refresh)
        await asyncio.sleep(champion.every)


def _plans(parts: Parts) -> APIRouter:
    router = APIRouter(tags=["plans"])

    @router.post("/plans")
    async def plan(request: schema.PlanRequest) -> schema.PlanAnswer | schema.PlansAnswer:
        """The plan for a pruning ratio; for several `ratios`, `{"plans": [...]}`."""
        # converting other targets to a ratio computes many plans: too slow for the event loop
        convert = partial(request.budgets, parts.ratio_for)
        budgets = convert() if request.is_plain else await asyncio.to_thread(convert)
        served, plans = await parts.planner.plans(budgets)
        parts.meters.plans.inc(len(plans))
        answers = [_answer(parts, served, *pair) for pair in zip(budgets, plans, strict=True)]
        return answers[0] if request.ratios is None else schema.PlansAnswer(plans=answers)

    return router


def _answer(parts: Parts, served: Served, ratio: float, plan: Plan) -> schema.PlanAnswer:
    pruned, dense, space = int(parts.parameters.of(plan)), parts.parameters.dense, plan.space
    return schema.PlanAnswer(
        ratio=ratio,
        ratios=list(plan.ratios),
        kept=list(plan.kept),
        units=list(space.units),
        kinds=list(space.kinds),
        layers=list(space.layers),
        parameters=pruned,
        reduction=1 - pruned / dense,
        bytes=int(parts.size.of(plan)),
        expected=_expected(parts, served, ratio),
        predictor_version=served.version,
    )


def _expected(parts: Parts, served: Served, ratio: float) -> schema.Expected | None:
    """Expected quality from the kit's figures; None if a newer predictor than the kit's is in
    use."""
    figures = parts.figures
    if figures is None or served.version != parts.of_version:
        return None
    return schema.Expected(
        metric=figures.metric,
        value=figures.value_at(ratio),
        dense=figures.of[0].value,
        speed=figures.speed_at(ratio),
        samples=figures.samples,
    )


def _page() -> APIRouter:
    router, page = APIRouter(), files("lop.serving").joinpath("page.html").read_text()

    @router.get("/", include_in_schema=False)
    async def form() -> HTMLResponse:
        return HTMLResponse(page, headers=PAGE_HEADERS)

    return router


def _checkpoints(parts: Parts) -> APIRouter:
    router, jobs = APIRouter(prefix="/checkpoints", tags=["checkpoints"]), parts.jobs

    def show(job: Job) -> schema.CheckpointAnswer:
        files, record = jobs.files(job.name), jobs.record(job.name)
        small = record.parameters if record else None
        dense = record.dense_parameters if record else None
        return schema.CheckpointAnswer(
            id=job.name,
            ratio=job.ratio,
            parameters=small,
            reduction=1 - small / dense if small and dense else None,
            state=job.state,
            error=job.error,
            predictor_version=job.predictor_version,
            created=job.created,
            finished=job.finished,
            files=[schema.FileAnswer(name=name, bytes=size) for name, size in files.items()],
        )

    @router.post("", status_code=202)
    def start(request: schema.CheckpointRequest, response: Response) -> schema.CheckpointAnswer:
        """Start a pruning job; its id is the checkpoint's name."""
        ratio = request.budget(parts.ratio_for)
        parts.champion.served.predictor.check_ratio(ratio)
        job = jobs.submit(request.name or checkpoint_name("lop", ratio), ratio)
        response.headers["Location"] = f"/checkpoints/{job.name}"
        return show(job)

    @router.get("")
    def every() -> schema.CheckpointsAnswer:
        """All pruning jobs and checkpoints."""
        return schema.CheckpointsAnswer(checkpoints=[show(job) for job in jobs.all()])

    @router.get("/{id}")
    def one(id: str) -> schema.CheckpointAnswer:
        """The state of a pruning job."""
        return show(jobs.get(id))

    @router.delete("/{id}", status_code=204)
    def delete(id: str) -> None:
        """Delete a checkpoint, or stop its job."""
        jobs.delete(id)

    @router.get("/{id}/files/{name}", response_class=FileResponse)
    def download(id: str, name: str) -> FileResponse:
        """A file of a finished checkpoint."""
        path = jobs.file(id, name)
        return FileResponse(path, filename=name, media_type="application/octet-stream")

    return router


def _streams(parts: Parts) -> APIRouter:
    router = APIRouter(tags=["checkpoints"])

    @router.post("/stream", response_class=StreamingResponse)
    def stream(request: schema.Target) -> Archive:
        """A checkpoint as a tar archive, created while it is sent; nothing is stored."""
        ratio = request.budget(parts.ratio_for)
        parts.champion.served.predictor.check_ratio(ratio)
        return Archive(parts.streams.open(ratio))

    return router


def _about(parts: Parts) -> APIRouter:
    router = APIRouter(tags=["service"])

    @router.get("/model")
    async def model() -> schema.ModelAnswer:
        """The current predictor and its model."""
        champion, served = parts.champion, parts.champion.served
        config = served.predictor.config
        return schema.ModelAnswer(
            predictor=champion.source.uri,
            version=served.version,
            fingerprint=served.fingerprint,
            kind=config.kind,
            min_ratio=config.min_ratio,
            max_ratio=config.max_ratio,
            model_fingerprint=config.model_fingerprint,
            scope=config.space.scope,
            units=list(config.space.units),
            kinds=list(config.space.kinds),
            layers=list(config.space.layers),
            parameters=int(parts.parameters.dense),
            score=parts.score,
            compensate=parts.compensate,
            stale=champion.stale,
            stale_seconds=champion.stale_seconds,
            error=champion.error,
            lop=_version(),
        )

    @router.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        page = parts.meters.page(parts.jobs, parts.champion.stale)
        return Response(page, media_type=CONTENT_TYPE_LATEST)

    return router


def _health(parts: Parts) -> APIRouter:
    router = APIRouter(tags=["service"])

    @router.get("/health", responses={503: {"model": schema.HealthAnswer}})
    async def health(response: Response) -> schema.HealthAnswer:
        """Compute a plan as a check; needs no token."""
        config, error = parts.champion.served.predictor.config, None
        try:
            probe = parts.planner.plans([config.max_ratio])
            await asyncio.wait_for(probe, PROBE_SECONDS)
        except TimeoutError:
            error = f"no plan within {PROBE_SECONDS:g} s"
        except LopError as failed:
            error = str(failed)
        response.status_code = 503 if error else 200
        served, stale = parts.champion.served, parts.champion.stale
        return schema.HealthAnswer(
            live=True,
            ready=not error,
            stale=stale,
            predictor_version=served.version,
            error=error,
        )

    return router


def _error(status: int, message: str, headers: Any = None) -> Response:
    return Response(refusal.body(message), status, headers, media_type="application/json")


async def _on_invalid(_: Request, error: Any) -> Response:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _error(400, f"body: not JSON: {first['ctx']['error']}")
    if first["loc"] == ("body",) and first["type"] != "value_error":
        return _error(422, "body: expected a JSON object, with Content-Type: application/json")
    location = ".".join(str(part) for part in first["loc"])
    return _error(422, f"{location}: {first['msg'].removeprefix('Value error, ')}")


async def _on_http(_: Request, error: Any) -> Response:
    # FastAPI raises 400 for a body that breaks the JSON parser, such as one nested too deeply
    message = "body: cannot be read as JSON" if error.status_code == 400 else error.detail
    return _error(error.status_code, str(message), error.headers)


async def _on_lop(_: Request, error: Any) -> Response:
    return _error(503 if isinstance(error, Busy) else getattr(error, "status", 422), str(error))


async def _on_bug(_: Request, error: Exception) -> Response:
    return _error(500, "internal error; see the log of the service")


def _version() -> str:
    try:
        return version("lop")
    except PackageNotFoundError:
        return "unknown"
