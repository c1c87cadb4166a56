"""Stage 5: the predictor, trained on the good samples, tracked and registered in MLflow."""

import pandas as pd
from prefect import flow

from flows.common import (
    IMPORTANCE,
    PREDICTOR,
    PROFILE,
    SEARCH,
    TRAINING,
    hashes,
    origin,
    params,
    run_stage,
)
from lop import tracking
from lop.steps import training


@flow(name="train")
def train_predictor() -> None:
    """Write data/predictor and data/training; log and register the predictor."""
    settings = params().train.model_dump()
    places = (PREDICTOR, TRAINING, SEARCH, IMPORTANCE / "mean_activation.safetensors")
    metrics, fingerprint = training.train(*places, profile_path=PROFILE, **settings)
    flat = settings["network"] | settings["fit_options"] | settings["samples"]
    flat |= {"base": settings["base"]}
    with tracking.run("train", flat, origin() | {"samples": fingerprint}) as run:
        run.inputs(hashes(SEARCH, PROFILE))
        run.curve(pd.read_csv(TRAINING / "curve.csv"), step="epoch")
        run.metrics(metrics)
        run.artifact(TRAINING)
        run.register_predictor(PREDICTOR)


if __name__ == "__main__":
    run_stage(train_predictor)
