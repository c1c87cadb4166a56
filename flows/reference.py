"""Trains the embedded reference model again; a frozen stage, because its result is in git."""

from pathlib import Path

from prefect import flow

from flows.common import params, run_stage
from lop.reference.card import write_card
from lop.reference.training import train_reference


@flow
def reference() -> None:
    """Write data/reference: the trained model and its card."""
    out = Path(params().model.path)
    train_reference(params().reference.model_dump(), out)
    write_card(out)


if __name__ == "__main__":
    run_stage(reference)
