"""The decrease of a measured quantity of generated images after retraining without some items, with intervals.

Arrays are [seeds, pictures]: a row for each training seed, a column for each noise that pictures start from; NaN where
the quantity is not defined, as the stroke thickness of an empty picture.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from attrbench.contracts.record import MetricResult, TrainingNoise
from attrbench.errors import AttrbenchError
from attrbench.metrics.intervals import retrained_interval

Floats = NDArray[np.float64]


def decrease(before: Floats, after: Floats) -> Floats:
    """Return the decrease of a quantity from `before` to `after` retraining, for each seed and picture.

    Where one of the two is NaN the mean of the others of that seed stands, which leaves the mean as it is.

    Raises:
        AttrbenchError: where a model's pictures are all empty.
    """
    difference = before - after
    empty = np.isnan(difference)
    if empty.all(axis=1).any():
        raise AttrbenchError("a retrained model drew empty pictures only: train longer, or remove fewer items")
    filled: Floats = np.where(empty, np.nanmean(difference, axis=1, keepdims=True), difference)
    return filled


def training_noise(means: Floats) -> TrainingNoise | None:
    """Return the standard error of a mean decrease due to training seeds, or None for a single seed.

    What is left of the models' decrease when the mean of the set and that of the seed are taken away (the residual of
    a two-way layout) is noise of training, of equal variance s^2 for all sets. A decrease compares the models of two
    sets, so its mean over S seeds has the variance 2 s^2 / S, and so has the difference of two.

    Args:
        means: [sets, seeds] mean decrease of each model's pictures, a row for each removed set, one of them, all
            zeros, for nothing removed; no set twice.
    """
    sets, seeds = means.shape
    freedom = (sets - 1) * (seeds - 1)
    if freedom == 0:
        return None
    residual = means - means.mean(1, keepdims=True) - means.mean(0, keepdims=True) + means.mean()
    variance = float(np.square(residual).sum()) / freedom
    return TrainingNoise(error=math.sqrt(2 * variance / seeds), freedom=freedom)


def result(metric: str, values: Floats, noise: TrainingNoise | None) -> MetricResult:
    """Return the mean decrease over pictures and training seeds as a metric result, with a 95% interval.

    Args:
        metric: its name.
        values: one for each picture.
        noise: of training; without it there is no interval.
    """
    low, high = (None, None) if noise is None else retrained_interval(values, noise.error, noise.freedom)
    return MetricResult(
        metric=metric,
        k=None,
        value=float(values.mean()),
        low=low,
        high=high,
        ceiling=None,
        random=None,
        per_query=values.ravel().round(4).tolist(),
        higher_is_better=True,
        clusters=len(values),
        noise=noise,
    )


def ks_statistic(before: Floats, after: Floats) -> float:
    """Return the Kolmogorov-Smirnov statistic of the quantity before and after removal, averaged over seeds."""
    pairs = zip(before, after, strict=True)
    return float(np.mean([ks_2samp(b[~np.isnan(b)], a[~np.isnan(a)]).statistic for b, a in pairs]))
