"""The step from calibration samples to scores of every neuron."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from transformers import PreTrainedModel, ProcessorMixin

from lop.files import Kind, check_dir, replacing_dir
from lop.importance import SCORES, VERSION, collect, save_scores
from lop.models import fingerprints
from lop.models.checkpoint import load_processor, load_spread
from lop.models.stored import Stored
from lop.tasks.encoding import encode
from lop.tasks.samples import fingerprint as samples_fingerprint
from lop.tasks.samples import read_samples

SCORE_FILES = Kind("scores", tuple(f"{name}.safetensors" for name in SCORES))


def importance(out: Path, model_path: str, samples_path: Path, batch_size: int) -> None:
    """Write every score of `lop.importance.SCORES` from one pass over calibration samples."""
    check_dir(out, SCORE_FILES, (model_path, samples_path))
    model, processor = load_spread(model_path), load_processor(model_path)
    samples = read_samples(samples_path)
    batches = encode(samples, model, processor, batch_size)
    scores = collect(model, batches, total=-(-len(samples) // batch_size))
    name_of_model = Stored(model_path).fingerprint
    origin = made_from(model, processor, samples)
    with replacing_dir(out, SCORE_FILES) as tmp:
        for name, layers in scores.items():
            save_scores(layers, tmp / f"{name}.safetensors", name_of_model, origin)


def made_from(model: PreTrainedModel, processor: ProcessorMixin, samples: pd.DataFrame) -> str:
    """Twelve hex digits over all that decides the scores of a model on calibration samples."""
    asked = fingerprints.how_asked(model, processor)
    parts = (fingerprints.fingerprint(model), asked, samples_fingerprint(samples))
    return fingerprints.digest(VERSION, *parts)
