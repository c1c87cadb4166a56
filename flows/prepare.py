"""Stage 1: calibration, reward, validation and benchmark samples from the source in params."""

from prefect import flow

from flows.common import SAMPLES, params, run_stage
from lop.steps import preparing


@flow
def prepare() -> None:
    """Write one Parquet table a purpose to data/samples."""
    chosen = params()
    preparing.prepare(SAMPLES, model_path=chosen.model.path, **chosen.prepare.model_dump())


if __name__ == "__main__":
    run_stage(prepare)
