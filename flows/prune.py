"""Stage 6: really smaller checkpoints, for every method and ratio in params."""

from prefect import flow

from flows.common import IMPORTANCE, PREDICTOR, PROFILE, PRUNED, params, run_stage
from lop.steps import pruning, timing


@flow
def prune() -> None:
    """Write data/pruned/<method>-<ratio>/ and plans.json, and data/pruned.json with plan times."""
    chosen = params()
    which = (chosen.search.score, chosen.search.compensate)
    made = (*which, PREDICTOR, PROFILE, chosen.prune.format)
    cutter = pruning.Cutter(chosen.model.path, IMPORTANCE, *made)
    grid = (chosen.prune.methods, chosen.prune.ratios)
    pruning.prune_grid(PRUNED, *grid, cutter)
    timing.plan_times(PRUNED.with_suffix(".json"), *grid, cutter)


if __name__ == "__main__":
    run_stage(prune)
