"""95% intervals over queries, by percentile bootstrap (methods-spec A1, A7)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

RESAMPLES = 2000


def mean_interval(
    values: Sequence[float] | NDArray[np.float64], seed: int = 0, clusters: int = 1
) -> tuple[float, float] | None:
    """The 95% percentile-bootstrap interval of the mean over queries; None for fewer than two queries.

    Args:
        values: one for each query.
        seed: of the resampling.
        clusters: where there are several, `values` is so many equal runs, one after the other. Each resample draws
            clusters with replacement, then values within each of them (methods-spec A7, two-way).
    """
    sample = np.asarray(values, dtype=np.float64)
    if clusters > 1:
        return _clustered_interval(sample.reshape(clusters, -1), seed)
    if len(sample) < 2:
        return None
    if np.ptp(sample) == 0:  # every resample has the same mean; scipy would warn
        return float(sample[0]), float(sample[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interval = bootstrap(
            (sample,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
        ).confidence_interval
    return float(interval.low), float(interval.high)


def _clustered_interval(sample: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """The same for [clusters, values]."""
    rng = np.random.default_rng(seed)
    clusters, count = sample.shape
    means = np.empty(RESAMPLES)
    for resample in range(RESAMPLES):
        drawn = rng.integers(clusters, size=(clusters, 1))
        means[resample] = sample[drawn, rng.integers(count, size=(clusters, count))].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def paired_difference(
    a: Sequence[float], b: Sequence[float], seed: int = 0, clusters: int = 1
) -> tuple[float, float] | None:
    """The 95% interval of mean(a - b) where both were measured on the same queries, in the same order."""
    return mean_interval(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), seed, clusters)
