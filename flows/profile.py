"""Stage 3: what each layer alone loses at a grid of widths."""

from prefect import flow

from flows.common import IMPORTANCE, PROFILE, SAMPLES, as_tasks, params, run_stage
from lop import steps


@flow
def profile() -> None:
    """Write data/profile.parquet."""
    model, samples, searched = params("model")["path"], SAMPLES / "reward.parquet", params("search")
    same = {name: searched[name] for name in ("compensate", "reward", "batch_size", "workers")}
    which = (IMPORTANCE, searched["score"], params("profile")["shares"])
    steps.profile(PROFILE, model, samples, *which, **same, each=as_tasks)


if __name__ == "__main__":
    run_stage(profile)
