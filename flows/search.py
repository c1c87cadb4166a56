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
    run_stage,
    searches,
)
from flows.tasks import as_tasks
from lop import tracking
from lop.reward import choice
from lop.search import by_searcher, read_search
from lop.steps import searching


@flow
def search() -> None:
    """Write one shard of samples for each search to data/search; log each new one to MLflow."""
    chosen, samples = params(), SAMPLES / "reward.parquet"
    model, each = chosen.model.path, as_tasks(searches(), searching.MODULES)
    options = chosen.search.model_dump(exclude={"settings", "runner", "workers", "address"})
    # settings that are not given have the searcher's own defaults, as in a notebook
    settings = [one.model_dump(exclude_unset=True) for one in chosen.search.settings]
    places = (SEARCH, model, samples, IMPORTANCE)
    searching.search(*places, settings=settings, profile_path=PROFILE, each=each, **options)
    knobs = {name: options[name] for name in ("reward", "start")}
    knobs |= choice.chosen(IMPORTANCE, options["score"], options["compensate"])._asdict()
    searchers, inputs = by_searcher(settings), hashes(Path(model), samples, PROFILE)
    tracking.searches(read_search(SEARCH), knobs, searchers, origin(), inputs)


if __name__ == "__main__":
    run_stage(search, searches)
