"""Stage 4: search for good plans at each (searcher, target, seed) of the grid."""

from pathlib import Path

from prefect import flow

from flows.common import (
    IMPORTANCE,
    PROFILE,
    SAMPLES,
    SEARCH,
    hashes,
    origin,
    params,
    placed,
    run_stage,
)
from flows.tasks import as_tasks
from lop import steps, tracking
from lop.search import by_searcher, read_search


@flow
def search() -> None:
    """Write one shard of samples a search to data/search; log each new one to MLflow."""
    model, samples = params("model")["path"], SAMPLES / "reward.parquet"
    place, settings = placed("search")
    knobs = {name: settings[name] for name in ("score", "compensate", "reward", "start")}
    places = (SEARCH, model, samples, IMPORTANCE)
    each = as_tasks(place, ["lop.steps"])
    steps.search(*places, profile_path=PROFILE, each=each, **settings)
    searchers, inputs = by_searcher(settings["settings"]), hashes(Path(model), samples, PROFILE)
    tracking.searches(read_search(SEARCH), knobs, searchers, origin(), inputs)


if __name__ == "__main__":
    run_stage(search, "search")
