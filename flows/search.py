"""Stage 3: search for good plans at each (target, seed) of the grid."""

from prefect import flow

from flows.common import SAMPLES, SEARCH, as_tasks, params, run_stage, scores_file
from lop import steps


@flow
def search() -> None:
    """Write one shard of search samples a (target, seed) to data/search."""
    settings = {k: v for k, v in params("search").items() if k != "score"}
    reward_set = SAMPLES / "reward.parquet"
    model = params("model")["path"]
    steps.search(SEARCH, model, reward_set, scores_file(), each=as_tasks, **settings)


if __name__ == "__main__":
    run_stage(search)
