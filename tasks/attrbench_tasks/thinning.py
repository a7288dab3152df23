"""By how much strokes became thinner: from the thickness of every picture to a result with its interval.

Arrays are [seeds, pictures]: a row for each training seed, a column for each noise that pictures start from; NaN where
a picture is empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrbench.errors import AttrbenchError
from attrbench.record import MetricResult

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


def result(metric: str, values: Floats, seed: int) -> MetricResult:
    """The mean, with its interval over training seeds and pictures.

    Args:
        metric: its name.
        values: one for each picture.
        seed: of the interval.
    """
    from attrbench.metrics.intervals import mean_interval

    low, high = mean_interval(values.ravel(), seed, clusters=len(values)) or (None, None)
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
    )


def ks_statistic(before: Floats, after: Floats) -> float:
    """The Kolmogorov-Smirnov statistic of the two distributions of thickness: mean over training seeds."""
    import numpy as np
    from scipy.stats import ks_2samp

    pairs = zip(before, after, strict=True)
    return float(np.mean([ks_2samp(b[~np.isnan(b)], a[~np.isnan(a)]).statistic for b, a in pairs]))
