"""Stage 1: calibration, reward, validation and benchmark samples from the source in params."""

from prefect import flow

from flows.common import SAMPLES, params, run_stage
from lop.data.prepare import PURPOSES
from lop.steps import preparing


@flow
def prepare() -> None:
    """Write one Parquet table for each purpose to data/samples."""
    chosen = params()
    sizes = chosen.prepare.model_dump(include=set(PURPOSES))
    rest = chosen.prepare.model_dump(exclude=set(PURPOSES))
    preparing.prepare(SAMPLES, sizes=sizes, model_path=chosen.model.path, **rest)


if __name__ == "__main__":
    run_stage(prepare)
