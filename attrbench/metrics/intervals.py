"""95% intervals: over queries by percentile bootstrap, of retrained models by their noise."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, norm, t

RESAMPLES = 2000


def mean_interval(values: Sequence[float] | NDArray[np.float64], seed: int = 0) -> tuple[float, float] | None:
    """The 95% percentile-bootstrap interval of the mean over queries; None for fewer than two queries.

    Args:
        values: one for each query.
        seed: of the resampling.
    """
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


def retrained_interval(values: NDArray[np.float64], error: float, freedom: int) -> tuple[float, float]:
    """The 95% interval of the mean of values that models trained again gave.

    Few trainings say little of their own spread, and a bootstrap over two or three is far too narrow. So the spread of
    trainings comes from outside, and Student's t stands for what is not known of it; the pictures add theirs.

    Args:
        values: [seeds, n], the n of each training seed in the same order.
        error: standard error of the mean that training with other seeds brings.
        freedom: degrees of freedom of `error`.
    """
    seeds = float(t.ppf(0.975, freedom)) * error
    own = values.mean(axis=0)
    pictures = float(norm.ppf(0.975) * own.std(ddof=1)) / math.sqrt(len(own)) if len(own) > 1 else 0.0
    middle, half = float(values.mean()), math.hypot(seeds, pictures)
    return middle - half, middle + half
