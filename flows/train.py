"""Stage 5: the predictor, trained on the good samples, and its kit, registered in MLflow."""

import pandas as pd
from prefect import flow

from flows.common import (
    IMPORTANCE,
    KIT,
    PREDICTOR,
    PROFILE,
    SAMPLES,
    SEARCH,
    TRAINING,
    hashes,
    origin,
    params,
    run_stage,
)
from lop import tracking
from lop.steps import kits, training


@flow(name="train")
def train_predictor() -> None:
    """Write data/predictor, data/training and data/kit; log them, and register the kit.

    The kit's plans are measured on the validation samples.
    """
    chosen = params()
    settings, search = chosen.train.model_dump(), chosen.search
    places = (PREDICTOR, TRAINING, SEARCH, IMPORTANCE / "mean_activation.safetensors")
    metrics, fingerprint = training.train(*places, profile_path=PROFILE, **settings)
    kits.gather_measured(
        KIT,
        (IMPORTANCE, PREDICTOR, PROFILE, None, search.score, search.compensate),
        (chosen.model.path, SAMPLES / "validation.parquet", search.reward, search.batch_size),
    )
    flat = settings["network"] | settings["fit_options"] | settings["samples"]
    flat |= {"base": settings["base"]}
    with tracking.run("train", flat, origin() | {"samples": fingerprint}) as run:
        run.inputs(hashes(SEARCH, PROFILE))
        run.curve(pd.read_csv(TRAINING / "curve.csv"), step="epoch")
        run.metrics(metrics)
        run.artifact(TRAINING)
        run.register_kit(KIT)


if __name__ == "__main__":
    run_stage(train_predictor)
