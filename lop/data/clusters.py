"""The standard error of a mean over samples in clusters, such as samples of one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def clustered_error(values: np.ndarray, clusters: Sequence[object] | np.ndarray) -> float:
    """Standard error of the mean of values (N,) with cluster names (N,).

    It is s/√n for clusters of one sample, and nan for a single cluster.
    """
    numbers = np.unique(np.asarray(clusters), return_inverse=True)[1]
    sums = np.bincount(numbers, values - values.mean(dtype=float))
    n = len(sums)
    return float(np.sqrt(n / (n - 1) * np.square(sums).sum()) / len(values)) if n > 1 else np.nan
