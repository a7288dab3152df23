"""95% confidence intervals of metrics: by bootstrap over queries, or by Student's t over retrained models."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

RESAMPLES = 2000


def mean_interval(values: Sequence[float] | NDArray[np.float64], seed: int = 0) -> tuple[float, float] | None:
    """Return the 95% percentile-bootstrap interval of the mean over queries; None for fewer than two queries.

    Args:
        values: [m] one value for each query.
        seed: seed of the resampling.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2:
        return None
    if np.ptp(sample) == 0:  # every resample has the same mean; scipy would warn
        return float(sample[0]), float(sample[0])
    from scipy.stats import bootstrap  # takes longer to import than a board takes to rank, which needs none of it

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interval = bootstrap(
            (sample,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
        ).confidence_interval
    return float(interval.low), float(interval.high)


@lru_cache(maxsize=2)
def resamples(count: int, seed: int = 0) -> NDArray[np.int64]:
    """Return [resamples, count] which of the values each resample that `mean_interval` draws is made of; read only."""
    drawn = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))  # as SciPy draws them
    drawn.flags.writeable = False
    return drawn


def resampling_weights(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return [resamples, count] the weight of each value in the mean of each resample."""
    number, count = drawn.shape
    places = drawn + count * np.arange(number)[:, None]
    weights: NDArray[np.float64] = np.bincount(places.ravel(), minlength=drawn.size).reshape(number, count) / count
    return weights


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """Return the 95% bootstrap interval of mean(a - b) for two methods measured on equal queries in equal order."""
    return mean_interval(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), seed)


def retrained_interval(values: NDArray[np.float64], error: float, freedom: int) -> tuple[float, float]:
    """Return the 95% interval of a mean measured on images of retrained models, over training seeds and images.

    A bootstrap over two or three training seeds would be far too narrow. The variance over trainings is therefore given
    and enters by Student's t; the variance over images is added.

    Args:
        values: [seeds, n] value of each training seed on each of n images.
        error: standard error of the mean due to the training seeds.
        freedom: degrees of freedom of `error`.
    """
    seeds = float(stdtrit(freedom, 0.975)) * error
    own = values.mean(axis=0)
    pictures = float(ndtri(0.975) * own.std(ddof=1)) / math.sqrt(len(own)) if len(own) > 1 else 0.0
    middle, half = float(values.mean()), math.hypot(seeds, pictures)
    return middle - half, middle + half
