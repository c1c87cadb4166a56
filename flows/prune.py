"""Stage 7: pruned checkpoints for every method and ratio in params."""

from pathlib import Path

from prefect import flow

from flows.common import IMPORTANCE, PREDICTOR, PROFILE, PRUNED, RECOVERED, params, run_stage
from lop.steps import grid, pruning, timing


@flow
def prune() -> None:
    """Write data/pruned/<method>-<ratio>/ for the checkpoints to keep, plans.json with all plans,
    and data/pruned.json with the times to plan."""
    chosen = params()
    which = (chosen.search.score, chosen.search.compensate)
    timed = chosen.prune.latency_profile
    made_of = {
        "predictor_path": PREDICTOR,
        "profile_path": PROFILE,
        "format": chosen.prune.format,
        "latency_path": Path(timed) if timed else None,
        "elsewhere": chosen.prune.elsewhere,
        "recovered_path": RECOVERED,
    }
    cutter = pruning.Cutter(chosen.model.path, IMPORTANCE, *which, **made_of)  # type: ignore[arg-type]
    methods = chosen.prune.methods
    ratios = grid.prune_grid(PRUNED, methods, chosen.prune.ratios, cutter, chosen.prune.keep)
    timing.plan_times(PRUNED.with_suffix(".json"), methods, ratios, cutter)


if __name__ == "__main__":
    run_stage(prune)
