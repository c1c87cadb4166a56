"""Stage 6: recovery, one set of weights for all budgets, trained at the predictor's plans."""

import pandas as pd
from prefect import flow

from flows.common import (
    IMPORTANCE,
    PREDICTOR,
    PROFILE,
    RECOVERED,
    RECOVERY,
    SAMPLES,
    hashes,
    origin,
    params,
    run_stage,
)
from lop import tracking
from lop.steps import pruning, recovering


@flow
def recover() -> None:
    """Write data/recovered, and data/recovery with the learning curve; log them."""
    chosen = params()
    which = (chosen.search.score, chosen.search.compensate)
    places = {"predictor_path": PREDICTOR, "profile_path": PROFILE}
    cutter = pruning.Cutter(chosen.model.path, IMPORTANCE, *which, **places)  # type: ignore[arg-type]
    samples, apart = SAMPLES / "train.parquet", [SAMPLES / "benchmark.parquet"]
    settings = chosen.recover
    metrics = recovering.recover(RECOVERED, RECOVERY, samples, cutter, settings, apart)
    with tracking.run("recover", settings.model_dump(), origin()) as run:
        run.inputs(hashes(samples, PREDICTOR, IMPORTANCE))
        run.curve(pd.read_csv(RECOVERY / "curve.csv"), step="step")
        run.metrics(metrics)
        run.artifact(RECOVERY)


if __name__ == "__main__":
    run_stage(recover)
