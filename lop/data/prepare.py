"""Draws the sample sets of a pipeline run: calibration, reward, validation, and the benchmark.

Scores see the calibration set, search the reward set, choices between methods the validation set,
recovery the train set; the benchmark is for the final numbers alone. No picture and no document is
in two of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lop.data.forms import asked_in
from lop.data.samples import document, draw, read_samples, split_by_image, split_with_rest
from lop.data.windows import cut
from lop.errors import LopError
from lop.models.checkpoint import load_processor
from lop.reference import easyvqa, knowledge

PURPOSES = ("calibration", "reward", "validation", "train", "benchmark")
FORMED = ("calibration", "reward")
REFERENCE = "reference"
WINDOW = 128  # tokens


def prepare_samples(
    source: str,
    seed: int,
    sizes: Mapping[str, int | None],
    window: int = WINDOW,
    model_path: str | None = None,
    forms: Sequence[str] = ("open",),
) -> dict[str, pd.DataFrame]:
    """A table of samples for each of `PURPOSES`, of the given sizes, drawn by `seed`.

    Calibration and reward samples are asked in `forms`, see `lop.data.forms`.

    `source` is a folder or table of samples (see `read_samples`), or `reference` for the data the
    reference model was trained on: half easy-VQA, half knowledge; its benchmark comes from the
    test splits, the train set from what it was trained on, all else from what training held out. A
    benchmark of None takes all there is: the test questions, or the samples whose pictures or
    documents the other tables leave. Of those, one of None is left out. Texts
    are cut into windows of that many tokens of the model at `model_path`, of which only the
    tokenizer is read, and a window counts as a sample.

    Raises LopError for sizes that cannot be, or that are more than there is, and for texts without
    a model.
    """
    tables = _drawn(source, seed, sizes, window, model_path)
    return tables | {name: asked_in(tables[name], forms, seed) for name in FORMED if name in tables}


def read_source(source: str, window: int, model_path: str | None) -> pd.DataFrame:
    """All samples that searches may be judged by; texts cut as `prepare_samples` does."""
    if source == REFERENCE:
        tables = [easyvqa.load("holdout"), knowledge.load("validation")]
        return pd.concat(tables, ignore_index=True)
    samples = read_samples(source)
    if any(map(document, samples.to_dict("records"))):
        if model_path is None:
            raise LopError(f"{source}: texts, to be cut by a model's tokenizer; name the model")
        samples = cut(samples, load_processor(model_path), window)
    return samples


def _drawn(
    source: str, seed: int, sizes: Mapping[str, int | None], window: int, model_path: str | None
) -> dict[str, pd.DataFrame]:
    if set(sizes) | {"train"} != set(PURPOSES):
        raise LopError(f"prepare: expected sizes for {', '.join(PURPOSES)}, got {', '.join(sizes)}")
    if small := [name for name, size in sizes.items() if size is not None and size < 1]:
        raise LopError(f"prepare.{small[0]} {sizes[small[0]]}: expected at least 1")
    held_out = {k: v for k, v in sizes.items() if k != "benchmark" and v is not None}
    if source != REFERENCE:
        samples = read_source(source, window, model_path)
        if (size := sizes["benchmark"]) is not None:
            return split_by_image(samples, held_out | {"benchmark": size}, seed)
        return split_with_rest(samples, held_out, "benchmark", seed)
    training = held_out.pop("train", 0)  # the reference model has its own training pictures
    halves = [
        split_by_image(easyvqa.load("holdout"), _half(held_out), seed),
        split_by_image(knowledge.load("validation"), _half(held_out), seed),
    ]
    tables = {name: _shuffled([half[name] for half in halves], seed) for name in held_out}
    rng = np.random.default_rng(seed)
    tests = [easyvqa.load("test"), knowledge.load("test")]
    if (size := sizes["benchmark"]) is not None:
        tests = [draw(test, size // 2, rng, "benchmark") for test in tests]
    tables["benchmark"] = pd.concat(tests, ignore_index=True)
    if training:
        own = [easyvqa.load("train"), knowledge.load("recovery")]
        parts = [draw(of, training // 2, rng, "train") for of in own]
        tables["train"] = _shuffled(parts, seed)
    return tables


def _half(sizes: Mapping[str, int]) -> dict[str, int]:
    return {name: size // 2 for name, size in sizes.items()}


def _shuffled(tables: list[pd.DataFrame], seed: int) -> pd.DataFrame:
    return pd.concat(tables).sample(frac=1, random_state=seed).reset_index(drop=True)
