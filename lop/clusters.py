"""The error of a mean over samples that share something, such as a picture or a document."""

from __future__ import annotations

import numpy as np


def clustered_error(values: np.ndarray, clusters: np.ndarray) -> float:
    """Standard error of the mean of values (N,) that come in clusters (N,), numbered from 0.

    It is s/√n for single samples, and nan for one cluster.
    """
    sums = np.bincount(clusters, values - values.mean(dtype=float))
    n = len(sums)
    return float(np.sqrt(n / (n - 1) * np.square(sums).sum()) / len(values)) if n > 1 else np.nan
