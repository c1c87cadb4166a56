"""Stage 6: really smaller checkpoints, for every method and ratio in params."""

from prefect import flow

from flows.common import IMPORTANCE, PREDICTOR, PROFILE, PRUNED, params, run_stage
from lop import steps


@flow
def prune() -> None:
    """Write data/pruned/<method>-<ratio>/ and plans.json, and data/pruned.json with plan times."""
    model, searched = params("model")["path"], params("search")
    score, compensate = searched["score"], searched["compensate"]
    grid = params("prune")
    shape = {name: grid.pop(name) for name in ("format", "multiple_of")}
    cutter = steps.Cutter(model, IMPORTANCE, score, compensate, PREDICTOR, PROFILE, **shape)
    steps.prune_grid(PRUNED, **grid, cutter=cutter)
    steps.plan_times(PRUNED.with_suffix(".json"), **grid, cutter=cutter)


if __name__ == "__main__":
    run_stage(prune)
