"""Stage 2: scores of every FFN neuron from one pass over the calibration set."""

from prefect import flow

from flows.common import IMPORTANCE, SAMPLES, params, run_stage
from lop.steps import scoring


@flow
def importance() -> None:
    """Write one safetensors file a score to data/importance."""
    calibration = SAMPLES / "calibration.parquet"
    scoring.importance(IMPORTANCE, params().model.path, calibration, params().importance.batch_size)


if __name__ == "__main__":
    run_stage(importance)
