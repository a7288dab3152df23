"""95% intervals over queries, by percentile bootstrap (methods-spec A1, A7)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

RESAMPLES = 2000


def mean_interval(values: Sequence[float] | NDArray[np.float64], seed: int = 0) -> tuple[float, float] | None:
    """The 95% percentile-bootstrap interval of the mean over queries; None for fewer than two queries."""
    sample = np.asarray(values, dtype=np.float64)
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


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """The 95% interval of mean(a - b) where both were measured on the same queries, in the same order."""
    return mean_interval(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), seed)
