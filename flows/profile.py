"""Stage 3: what each layer alone loses at a grid of widths."""

from prefect import flow

from flows.common import IMPORTANCE, PROFILE, SAMPLES, params, placed, run_stage
from flows.tasks import as_tasks
from lop import steps


@flow
def profile() -> None:
    """Write data/profile.parquet."""
    model, samples = params("model")["path"], SAMPLES / "reward.parquet"
    place, searched = placed("search")
    same = {name: searched[name] for name in ("compensate", "reward", "batch_size")}
    which = (IMPORTANCE, searched["score"], params("profile")["shares"])
    steps.profile(PROFILE, model, samples, *which, **same, each=as_tasks(place, ["lop.steps"]))


if __name__ == "__main__":
    run_stage(profile, "search")
