"""Agreement of two metrics about the same runs: Spearman's rank correlation, with an interval over methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attrbench.metrics.intervals import RESAMPLES

Floats = NDArray[np.float64]


MOST_CONSTANT = 0.05
"""Share of resamples in which a metric may be constant, and has no rank correlation, for an interval of the others."""


@dataclass(frozen=True)
class MetricAgreement:
    """Spearman's rank correlation of two metrics over runs, with its 95% interval.

    Attributes:
        value: 1 where both order the runs alike, 0 where one tells nothing of the other, -1 for the opposite order.
        low, high: 95% interval over methods; None where there are fewer than three, or a metric has one value on most.
        runs: number of runs that have both.
    """

    value: float
    low: float | None
    high: float | None
    runs: int


def metric_agreement(a: Floats, b: Floats, methods: Sequence[str], seed: int = 0) -> MetricAgreement | None:
    """Return how alike two metrics order runs; None for fewer than three runs that have both, or one that is constant.

    The interval is a bootstrap over methods, whose runs with various options are drawn together: they resemble each
    other, so that an interval over single runs would be too narrow.

    Args:
        a: [n] values of a metric, the larger the better; NaN for a run without it.
        b: [n] values of another one.
        methods: [n] the method of each run.
        seed: of the resampling.
    """
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 3:
        return None
    x, y = a[both], b[both]
    names, place = np.unique(np.array(methods, dtype=object)[both].astype(str), return_inverse=True)
    value = float(weighted_rank_correlation(x, y, np.ones((1, len(x))))[0])
    if np.isnan(value):
        return None
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    found = weighted_rank_correlation(x, y, drawn[:, place].astype(float))
    if len(names) < 3 or np.isnan(found).mean() > MOST_CONSTANT:
        return MetricAgreement(value, None, None, len(x))
    low, high = np.nanquantile(found, (0.025, 0.975))
    return MetricAgreement(value, float(low), float(high), len(x))


def weighted_rank_correlation(a: Floats, b: Floats, weights: Floats) -> Floats:
    """Return Spearman's correlation of two arrays whose values occur `weights` times, [R]; NaN for constant ones.

    Args:
        a: [n] values.
        b: [n] values.
        weights: [R, n] how often each pair of values occurs, for each of R samples.
    """
    total = weights.sum(axis=1, keepdims=True)
    x, y = (weighted_ranks(values, weights) for values in (a, b))
    x, y = (ranks - (weights * ranks).sum(axis=1, keepdims=True) / total for ranks in (x, y))
    scale = np.sqrt((weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1))
    products = (weights * x * y).sum(axis=1)
    correlation: Floats = np.divide(products, scale, out=np.full(len(products), np.nan), where=scale > 0)
    return correlation


def weighted_ranks(values: Floats, weights: Floats) -> Floats:
    """Return the mean rank of each of n values (smallest: 1) that occur `weights` [R, n] times, [R, n]."""
    below = (values[None, :] < values[:, None]).astype(float)
    equal = (values[None, :] == values[:, None]).astype(float)
    ranks: Floats = weights @ below.T + (weights @ equal.T + 1) / 2
    return ranks
