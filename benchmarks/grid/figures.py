"""Perplexities and differences of methods, with standard errors clustered by picture or
document."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lop.data.clusters import clustered_error


def perplexity(lost: np.ndarray, tokens: np.ndarray, documents: np.ndarray) -> tuple[float, float]:
    """Perplexity over all tokens, and its standard error.

    `lost`, `tokens` and `documents`, (N,) each, are minus a window's summed log-likelihood, its
    tokens and its document: windows of one document are not independent.
    """
    mean, error = rate(lost, tokens, documents)
    return float(np.exp(mean)), float(np.exp(mean) * error)


def rate(values: np.ndarray, tokens: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Σ values / Σ tokens, and the standard error of that ratio estimator over clusters.

    It is nan for a single cluster.
    """
    mean = values.sum(dtype=float) / tokens.sum()
    return float(mean), clustered_error(values - mean * tokens, clusters) / float(tokens.mean())


def difference(
    ours: list[np.ndarray],
    theirs: list[np.ndarray],
    tokens: list[np.ndarray],
    clusters: list[np.ndarray],
) -> tuple[float, float]:
    """Σ (ours − theirs) / Σ tokens over all draws, and its standard error.

    Each list has an array (N,) a draw. The error is that by cluster over all samples together,
    and beside it, where there are several draws, that of the mean over draws; the draws' own
    samples count in both, so it is rather too large than too small.
    """
    gained = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean, error = rate(*map(np.concatenate, (gained, tokens, clusters)))
    each = [values.sum() / count.sum() for values, count in zip(gained, tokens, strict=True)]
    return mean, with_draws(error, each)


def with_draws(error: float, each: Sequence[float]) -> float:
    """An error within draws, together with that of the mean of their figures, one a draw."""
    if len(each) < 2:
        return error
    return float(np.hypot(error, np.std(each, ddof=1) / np.sqrt(len(each))))
