"""Draws the sample sets of a pipeline run: calibration, reward, validation, and the benchmark.

Scores see the calibration set, search the reward set, choices between methods the validation set;
the benchmark is for the final numbers alone. No image is in two of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lop.errors import LopError
from lop.tasks import easyvqa, knowledge
from lop.tasks.samples import draw, read_samples, split_by_image

PURPOSES = ("calibration", "reward", "validation", "benchmark")
REFERENCE = "reference"


def prepare_samples(source: str, seed: int, **sizes: int | None) -> dict[str, pd.DataFrame]:
    """A table of samples for each of `PURPOSES`, of the given sizes, drawn by `seed`.

    `source` is a folder or table of samples (see `read_samples`), or `reference` for the data the
    reference model was trained on: half easy-VQA, half knowledge; its benchmark comes from the
    test splits, all else from what training held out. A size of None takes all there is.
    """
    if set(sizes) != set(PURPOSES):
        raise LopError(f"prepare: expected sizes for {', '.join(PURPOSES)}, got {', '.join(sizes)}")
    if source != REFERENCE:
        wanted = {name: size for name, size in sizes.items() if size is not None}
        return split_by_image(read_samples(source), wanted, seed)
    held_out = {k: v for k, v in sizes.items() if k != "benchmark" and v is not None}
    halves = [
        split_by_image(easyvqa.load("holdout"), _half(held_out), seed),
        split_by_image(knowledge.load("validation"), _half(held_out), seed),
    ]
    tables = {name: _shuffled([half[name] for half in halves], seed) for name in held_out}
    tests = [easyvqa.load("test"), knowledge.load("test")]
    if (size := sizes["benchmark"]) is not None:
        rng = np.random.default_rng(seed)
        tests = [draw(test, size // 2, rng, "benchmark") for test in tests]
    return tables | {"benchmark": pd.concat(tests, ignore_index=True)}


def _half(sizes: Mapping[str, int]) -> dict[str, int]:
    return {name: size // 2 for name, size in sizes.items()}


def _shuffled(tables: list[pd.DataFrame], seed: int) -> pd.DataFrame:
    return pd.concat(tables).sample(frac=1, random_state=seed).reset_index(drop=True)
