"""By how much strokes became thinner: from the thickness of every picture to a result with its interval.

Arrays are [seeds, pictures]: a row for each training seed, a column for each noise that pictures start from; NaN where
a picture is empty.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrbench.contracts.record import MetricResult, TrainingNoise
from attrbench.errors import AttrbenchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

METRIC = "thinning"


def thinning(before: Floats, after: Floats) -> Floats:
    """By how many pixels the strokes of each picture became thinner; pictures of equal seed and noise are compared.

    Where one of the two is empty the mean of the others of that seed stands, which leaves the mean as it is.

    Raises:
        AttrbenchError: where a model drew nothing at all.
    """
    import numpy as np

    difference = before - after
    empty = np.isnan(difference)
    if empty.all(axis=1).any():
        raise AttrbenchError("a retrained model drew empty pictures only: train longer, or remove fewer items")
    filled: Floats = np.where(empty, np.nanmean(difference, axis=1, keepdims=True), difference)
    return filled


def training_noise(means: Floats) -> TrainingNoise | None:
    """How far the thinning of any of these sets moves with the training seeds; None for a single seed.

    What is left of the models' thinning when the mean of the set and that of the seed are taken away (the residual of
    a two-way layout) is noise of training, of equal variance s^2 for all sets. A thinning compares the models of two
    sets, so its mean over S seeds has the variance 2 s^2 / S, and so has the difference of two.

    Args:
        means: [sets, seeds] mean thinning of each model's pictures, a row for each removed set, one of them, all
            zeros, for nothing removed; no set twice.
    """
    import numpy as np

    sets, seeds = means.shape
    freedom = (sets - 1) * (seeds - 1)
    if freedom == 0:
        return None
    residual = means - means.mean(1, keepdims=True) - means.mean(0, keepdims=True) + means.mean()
    variance = float(np.square(residual).sum()) / freedom
    return TrainingNoise(error=math.sqrt(2 * variance / seeds), freedom=freedom)


def result(metric: str, values: Floats, noise: TrainingNoise | None) -> MetricResult:
    """The mean, with its interval over training seeds and pictures.

    Args:
        metric: its name.
        values: one for each picture.
        noise: of training; without it there is no interval.
    """
    from attrbench.metrics.intervals import retrained_interval

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
    """The Kolmogorov-Smirnov statistic of the two distributions of thickness: mean over training seeds."""
    import numpy as np
    from scipy.stats import ks_2samp

    pairs = zip(before, after, strict=True)
    return float(np.mean([ks_2samp(b[~np.isnan(b)], a[~np.isnan(a)]).statistic for b, a in pairs]))
