"""A checkpoint when somebody asks for one, through the form in Prefect's UI."""

from pathlib import Path
from typing import Annotated

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from flows.common import IMPORTANCE, params
from lop import tracking
from lop.errors import LopError
from lop.plan import checkpoint_name
from lop.steps import pruning

Ratio = Annotated[float, Field(ge=0, lt=1, description="share of the scope to remove")]


@flow(name="prune-on-demand")
def prune_on_demand(
    ratio: Ratio | None = None,
    size: str | None = None,
    model: str = "data/reference",
    predictor: str = f"models:/{tracking.PREDICTOR_NAME}@{tracking.CHAMPION}",
    scores: str = str(IMPORTANCE),
    out: str = "data/on-demand",
) -> str:
    """Cut a checkpoint of a ratio or a size out of a model; returns where it lies.

    Args:
        ratio: Share of the scope to remove, in [0, 1).
        size: Instead of a ratio: bytes on disk, such as 9GB.
        model: Hugging Face model directory.
        predictor: Predictor directory, or models:/NAME@ALIAS of the registry.
        scores: Directory of the model's scores.
        out: Directory in which the checkpoint gets one of its own.
    """
    searched = params().search
    which = (searched.score, searched.compensate)
    cutter = pruning.Cutter(model, Path(scores), *which, predictor_path=predictor)
    if (ratio is None) == (size is None):
        raise LopError("expected a ratio or a size, and not both")
    if ratio is None:
        ratio = cutter.ratio_for("size", str(size))
    place = Path(out) / checkpoint_name(Path(model).name, ratio)
    pruning.prune_one(place, "lop", ratio, cutter)
    card = (place / "README.md").read_text().split("---\n", 2)[-1]
    create_markdown_artifact(f"`{place.resolve()}`\n\n{card}", "checkpoint", "What was cut")
    return str(place)
