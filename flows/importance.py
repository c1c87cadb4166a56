"""Stage 2: scores of every unit from one pass over the calibration set."""

from prefect import flow

from flows.common import IMPORTANCE, SAMPLES, params, run_stage
from lop.steps import scoring


@flow
def importance() -> None:
    """Write one safetensors file for each score to data/importance, and choice.json, the meaning of
    `auto`."""
    calibration, reward = SAMPLES / "calibration.parquet", SAMPLES / "reward.parquet"
    chosen = params()
    options = chosen.importance.model_dump() | chosen.space.model_dump()
    options |= {"kind": chosen.search.reward}
    places = (IMPORTANCE, chosen.model.path, calibration)
    print(scoring.importance(*places, reward_path=reward, **options))


if __name__ == "__main__":
    run_stage(importance)
