"""Stage 3: what each site alone loses at a grid of sizes."""

from prefect import flow

from flows.common import IMPORTANCE, PROFILE, SAMPLES, params, run_stage, searches
from flows.tasks import as_tasks
from lop.steps import searching


@flow
def profile() -> None:
    """Write data/profile.parquet."""
    chosen, samples = params(), SAMPLES / "reward.parquet"
    same = chosen.search.model_dump(include={"score", "compensate", "reward", "batch_size"})
    places, each = (chosen.model.path, samples, IMPORTANCE), as_tasks(searches(), searching.MODULES)
    how = chosen.profile.model_dump() | same
    searching.profile(PROFILE, *places, **how, each=each)


if __name__ == "__main__":
    run_stage(profile, searches)
