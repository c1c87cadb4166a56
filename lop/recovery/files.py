"""The output of recovery: a model with the same tensors as before, and a record of its source."""

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
    """Write a recovered model, with `record` and its fingerprint in recovery.json.

    `recovered_from` in `record` is the fingerprint of the source model.
    """
    record = record | {"fingerprint": fingerprint(model)}
    save(model, processor, out, {RECORD: json.dumps(record, indent=2) + "\n"})


def check_recovered(path: Path, model_fingerprint: str) -> None:
    """Raise LopError unless a directory holds a model recovered from the model with this
    fingerprint."""
    if not ((path / RECORD).is_file() and has_keys(path / RECORD, KEYS)):
        raise LopError(f"{path}: no {RECORD}; expected a model that `lop recover` wrote")
    source = read_json(path / RECORD)["recovered_from"]
    if source != model_fingerprint:
        raise LopError(f"{path}: recovered from model {source}, this model is {model_fingerprint}")
