"""Stage 5: really smaller checkpoints, for every method and ratio in params."""

from prefect import flow

from flows.common import IMPORTANCE, PREDICTOR, PRUNED, params, run_stage
from lop import steps


@flow
def prune() -> None:
    """Write data/pruned/<method>-<ratio>/ and plans.json."""
    model, searched = params("model")["path"], params("search")
    which = (searched["score"], searched["compensate"])
    steps.prune_grid(PRUNED, model, PREDICTOR, IMPORTANCE, *which, **params("prune"))


if __name__ == "__main__":
    run_stage(prune)
