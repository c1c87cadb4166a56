"""What recovery writes: a model of the same form as before, and where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from lop.errors import LopError
from lop.files import has_keys, read_json
from lop.models.checkpoint import save
from lop.models.fingerprints import fingerprint

RECORD = "recovery.json"
KEYS = ("recovered_from", "fingerprint")


def save_recovered(
    out: Path, model: PreTrainedModel, processor: ProcessorMixin, record: dict[str, Any]
) -> None:
    """Write a recovered model, with what is told of it in recovery.json.

    Of `record`, `recovered_from` is the fingerprint of the model before.
    """
    said = record | {"fingerprint": fingerprint(model)}
    save(model, processor, out, {RECORD: json.dumps(said, indent=2) + "\n"})


def check_recovered(path: Path, model_fingerprint: str) -> None:
    """Raise LopError unless a directory holds what the model with this fingerprint became."""
    if not ((path / RECORD).is_file() and has_keys(path / RECORD, KEYS)):
        raise LopError(f"{path}: no {RECORD}; expected a model that `lop recover` wrote")
    made_of = read_json(path / RECORD)["recovered_from"]
    if made_of != model_fingerprint:
        raise LopError(f"{path}: recovered from model {made_of}, this model is {model_fingerprint}")
