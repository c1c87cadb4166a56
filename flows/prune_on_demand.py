"""Cuts a checkpoint on demand, from the form in Prefect's UI."""

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from lop import tracking
from lop.plan import checkpoint_name
from lop.steps import kits, pruning

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
    kit: str = f"models:/{tracking.KIT_NAME}@{tracking.CHAMPION}",
    out: str = "data/on-demand",
) -> str:
    """Cut a checkpoint of a model at a ratio or a size; returns its path.

    Args:
        ratio: Share of the scope to remove, in [0, 1).
        size: Instead of a ratio: bytes on disk, such as 9GB.
        params: Instead: parameters of the whole model, such as 5.2B.
        flops_per_token: Instead: FLOPs a token of its language model, such as 9G.
        latency: Instead: what the latency profile's request takes, such as 0.7x or 120ms.
        latency_profile: What `lop latency` timed, on the machine that the checkpoint is to run on …
        elsewhere: … which is another one than this.
        model: Hugging Face model directory.
        kit: Directory, or models:/NAME@ALIAS of the registry.
        out: Directory in which the checkpoint gets one of its own.
    """
    given: dict[str, Any] = {"elsewhere": elsewhere}
    given["latency_path"] = Path(latency_profile) if latency_profile else None
    cutter = pruning.Cutter.of_kit(model, pruning.kit_at(kit), **given)
    targets = {"size": size, "params": params, "flops_per_token": flops_per_token}
    budget = {"ratio": ratio, **targets, "latency": latency}  # an empty text of the form is none
    ratio, plan = kits.meeting(cutter, {kind: of for kind, of in budget.items() if of != ""})
    place = Path(out) / checkpoint_name(Path(model).name, ratio)
    pruning.prune_one(place, "lop", ratio, cutter, plan)
    card = (place / "README.md").read_text().split("---\n", 2)[-1]
    create_markdown_artifact(f"`{place.resolve()}`\n\n{card}", "checkpoint", "What was cut")
    return str(place)
