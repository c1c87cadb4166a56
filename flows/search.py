"""Stage 4: search for good plans at each (target, seed) of the grid."""

from prefect import flow

from flows.common import IMPORTANCE, PROFILE, SAMPLES, SEARCH, as_tasks, params, run_stage
from lop import steps


@flow
def search() -> None:
    """Write one shard of search samples a (target, seed) to data/search."""
    model, samples = params("model")["path"], SAMPLES / "reward.parquet"
    places = (SEARCH, model, samples, IMPORTANCE)
    steps.search(*places, profile_path=PROFILE, each=as_tasks, **params("search"))


if __name__ == "__main__":
    run_stage(search)
