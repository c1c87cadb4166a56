"""A checkpoint when somebody asks for one, through the form in Prefect's UI."""

from pathlib import Path
from typing import Annotated

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from flows.common import IMPORTANCE
from flows.common import params as settings
from lop import tracking
from lop.errors import LopError
from lop.plan import checkpoint_name
from lop.steps import pruning

Ratio = Annotated[float, Field(ge=0, lt=1, description="share of the scope to remove")]


@flow(name="prune-on-demand")
def prune_on_demand(
    ratio: Ratio | None = None,
    size: str | None = None,
    params: str | None = None,
    flops_per_token: str | None = None,
    latency: str | None = None,
    latency_profile: str | None = None,
    elsewhere: bool = False,
    model: str = "data/reference",
    predictor: str = f"models:/{tracking.PREDICTOR_NAME}@{tracking.CHAMPION}",
    scores: str = str(IMPORTANCE),
    out: str = "data/on-demand",
) -> str:
    """Cut a checkpoint of a ratio or a size out of a model; returns where it lies.

    Args:
        ratio: Share of the scope to remove, in [0, 1).
        size: Instead of a ratio: bytes on disk, such as 9GB.
        params: Instead: parameters of the whole model, such as 5.2B.
        flops_per_token: Instead: FLOPs a token of its language model, such as 9G.
        latency: Instead: what the latency profile's request takes, such as 0.7x or 120ms.
        latency_profile: What `lop latency` timed, on the machine that the checkpoint is to run on …
        elsewhere: … which is another one than this.
        model: Hugging Face model directory.
        predictor: Predictor directory, or models:/NAME@ALIAS of the registry.
        scores: Directory of the model's scores.
        out: Directory in which the checkpoint gets one of its own.
    """
    searched = settings().search
    which = (searched.score, searched.compensate)
    timed = Path(latency_profile) if latency_profile else None
    made_of = {"predictor_path": predictor, "latency_path": timed, "elsewhere": elsewhere}
    cutter = pruning.Cutter(model, Path(scores), *which, **made_of)  # type: ignore[arg-type]
    targets = {
        "size": size,
        "params": params,
        "flops_per_token": flops_per_token,
        "latency": latency,
    }
    asked = {kind: target for kind, target in targets.items() if target}
    if (ratio is not None) + len(asked) != 1:
        raise LopError("expected one of ratio, size, params, flops_per_token and latency")
    plan = None
    if ratio is None:
        ratio, plan = cutter.meeting(*next(iter(asked.items())))
    place = Path(out) / checkpoint_name(Path(model).name, ratio)
    pruning.prune_one(place, "lop", ratio, cutter, plan)
    card = (place / "README.md").read_text().split("---\n", 2)[-1]
    create_markdown_artifact(f"`{place.resolve()}`\n\n{card}", "checkpoint", "What was cut")
    return str(place)
