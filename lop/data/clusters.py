"""The error of a mean over samples that share something, such as a picture or a document."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def clustered_error(values: np.ndarray, clusters: Sequence[object] | np.ndarray) -> float:
    """Standard error of the mean of values (N,), of which each is of the cluster so named (N,).

    It is s/√n for single samples, and nan for one cluster.
    """
    numbers = np.unique(np.asarray(clusters), return_inverse=True)[1]
    sums = np.bincount(numbers, values - values.mean(dtype=float))
    n = len(sums)
    return float(np.sqrt(n / (n - 1) * np.square(sums).sum()) / len(values)) if n > 1 else np.nan
