"""Comparisons of every two runs on a leaderboard at once: for each, the number of those that are significantly better.

Each run is a row of values, one for each query (or picture). `paired_difference` draws the same resamples for any two
runs, so they are drawn once, and the mean of each run in each resample is kept as its place among all runs: two runs
are then compared by counting the resamples in which the first is not the higher.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from attrbench.contracts.record import MetricResult
from attrbench.metrics.intervals import resampling_weights

BLOCK = 256
"""Number of runs that are compared with all others at once; keeps the arrays in the processor's cache."""
EQUAL = 1e-12
"""Relative difference of two means up to which they are one number, rounded differently."""

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def better_runs(results: Sequence[MetricResult]) -> Counts:
    """Return for each run how many of the others are significantly better: the 95% interval of the difference is > 0.

    Results with different numbers of values (a ground truth with other seeds or images) or without an interval are
    never significantly different.

    Args:
        results: the result of one metric for each run, all values finite.
    """
    counts = np.zeros(len(results), dtype=np.int64)
    groups: dict[tuple[int, int, bool], list[int]] = {}
    for place, result in enumerate(results):
        if result.low is not None and result.high is not None and len(result.per_query) > 1:
            groups.setdefault((len(result.per_query), result.clusters, result.higher_is_better), []).append(place)
    for places in groups.values():
        counts[places] = _better_in_group([results[place] for place in places])
    return counts


def _better_in_group(results: Sequence[MetricResult]) -> Counts:
    """Return the counts of `better_runs` for results that can be compared: two with training noise by its interval."""
    sign = 1.0 if results[0].higher_is_better else -1.0
    values = sign * np.array([result.per_query for result in results], dtype=np.float64)
    noisy = np.array([result.noise is not None for result in results])
    counts = np.zeros(len(results), dtype=np.int64)
    if not noisy.all():
        counts = better_by_bootstrap(values)
    if noisy.any():
        if not noisy.all():
            counts[noisy] -= better_by_bootstrap(values[noisy])
        counts[noisy] += _better_by_retraining(values[noisy], [r for r in results if r.noise is not None])
    return counts


def better_by_bootstrap(values: Floats) -> Counts:
    """Return for each row how many rows have a higher mean by the bootstrap interval of `paired_difference`.

    Args:
        values: [n, m] values of each run on the same m queries, at least two; larger is better.
    """
    rows, place, copies = np.unique(values, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(-rows.mean(axis=1), kind="stable")
    pairs = _Pairs(rows[order])
    counts = np.zeros(len(rows), dtype=np.int64)
    for start in range(0, len(rows), BLOCK):
        stop = min(start + BLOCK, len(rows))
        counts[order[start:stop]] = pairs.beaten(start, stop) @ copies[order[:stop]]
    return counts[place.reshape(-1)]


class _Pairs:
    """All pairs of runs with different values, sorted with the highest mean first, to tell which are separated.

    Most pairs are settled by z, the difference of the means in units of its standard error. The percentile interval
    begins above 0 where z exceeds a limit near 1.96, which depends on the differences: if one query decides alone, its
    number of draws is Poisson with mean 1, and the limit may be as low as 1 or as high as 2.5; the more queries take
    part, the nearer to 1.96. Pairs with z within the reach of the limit are compared in every resample.
    """

    def __init__(self, rows: Floats) -> None:
        self.rows, self.means = rows, rows.mean(axis=1)
        self.weights = resampling_weights(rows.shape[1])
        self.places = _places(rows, self.weights)
        shifted = rows - rows.mean(axis=0)  # near the others, for the precision of the products below
        centered = shifted - shifted.mean(axis=1, keepdims=True)
        with np.errstate(over="ignore"):
            self._powers = [centered, centered**2, centered**3]
            self._second, self._fourth = (centered**2).sum(axis=1), (centered**4).sum(axis=1)
        self._lower = np.empty((2 * BLOCK, len(self.weights)), dtype=np.bool_)
        self._taken = np.empty((BLOCK, len(self.weights)), dtype=self.places.dtype)

    def beaten(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Return [stop - start, stop] whether each of these runs is beaten by each run up to `stop`."""
        difference = self.means[:stop] - self.means[start:stop, None]
        z, share = self._spread(start, stop, difference)
        reach = np.sqrt(share)
        beaten: NDArray[np.bool_] = z > 2.31 + 0.45 * reach
        open_ = (difference > 0) & ~beaten & ~(z < 1.61 - 0.75 * reach)
        for row, wanted in enumerate(open_):
            candidates = np.flatnonzero(wanted)
            if len(candidates):
                beaten[row, candidates] = self._compare(start + row, candidates)
        return beaten

    def _spread(self, start: int, stop: int, difference: Floats) -> tuple[Floats, Floats]:
        """Return z of each pair (NaN if unknown), and 1 / the number of queries that decide (1 if unknown)."""
        (a, a2, a3), (b, b2, b3) = (
            [power[part] for power in self._powers] for part in (slice(stop), slice(start, stop))
        )
        own = self._second[:stop] + self._second[start:stop, None]
        with np.errstate(all="ignore"):
            second = own - 2 * (b @ a.T)
            fourth = self._fourth[:stop] + self._fourth[start:stop, None] - 4 * (b3 @ a.T + b @ a3.T) + 6 * (b2 @ a2.T)
            z = difference * self.rows.shape[1] / np.sqrt(np.where(second > 1e-10 * own, second, np.nan))
            share = np.where(second > 1e-4 * own, fourth / second**2, 1.0)
        return z, np.nan_to_num(share, nan=1.0).clip(0.0, 1.0)

    def _compare(self, row: int, candidates: Counts) -> NDArray[np.bool_]:
        """Return whether each candidate beats a run, from the number of resamples in which it is not the higher."""
        counts = np.concatenate(
            [self._not_higher(row, candidates[i : i + BLOCK]) for i in range(0, len(candidates), BLOCK)]
        )
        last = int(0.025 * (len(self.weights) - 1))  # the interval begins between the means at `last` and `last` + 1
        beats: NDArray[np.bool_] = counts <= last
        between = np.flatnonzero(counts == last + 1)
        if len(between):
            beats[between] = self._interval_begins_above_zero(row, candidates[between])
        return beats

    def _not_higher(self, row: int, candidates: Counts) -> Counts:
        """Return for up to BLOCK sorted candidates in how many resamples each is not higher than a run."""
        first, end = int(candidates[0]), int(candidates[-1]) + 1
        if end - first <= len(self._lower):  # a stretch of neighbors is compared as it lies, without a copy
            places, chosen = self.places[first:end], candidates - first
        else:
            places = np.take(self.places, candidates, axis=0, out=self._taken[: len(candidates)])
            chosen = np.arange(len(candidates))
        lower = np.less_equal(places, self.places[row], out=self._lower[: len(places)])
        # Eight truth values are added at once as the bytes of an integer: fewer than 256 such, so none overflows.
        eight = lower.view(np.uint64).sum(axis=1).view(np.uint8).reshape(-1, 8)
        return eight.sum(axis=1, dtype=np.int64)[chosen]

    def _interval_begins_above_zero(self, row: int, candidates: Counts) -> NDArray[np.bool_]:
        """Return whether the interpolated 2.5% percentile lies above 0, where 0 lies between its two neighbors."""
        differences = (self.rows[candidates] - self.rows[row]) @ self.weights.T
        rounding = EQUAL * (np.abs(self.rows[candidates]).mean(axis=1) + np.abs(self.rows[row]).mean())[:, None]
        below = np.where(differences <= rounding, np.minimum(differences, 0.0), -np.inf).max(axis=1)
        above = np.where(differences > rounding, differences, np.inf).min(axis=1)
        part = 0.025 * (len(self.weights) - 1) % 1
        return np.asarray(below + part * (above - below) > 0)


def _places(rows: Floats, weights: Floats) -> NDArray[np.unsignedinteger]:
    """Return [n, resamples] the place of each run's mean among those of all runs, equal for equal means."""
    places = np.empty((len(rows), len(weights)), dtype=np.uint16 if len(rows) < 1 << 16 else np.uint32)
    rounding = EQUAL * np.abs(rows).mean(axis=1)
    for start in range(0, len(weights), BLOCK):
        means = weights[start : start + BLOCK] @ rows.T
        order = np.argsort(means, axis=1)
        gaps = np.diff(np.take_along_axis(means, order, axis=1), axis=1)
        another = gaps > rounding[order[:, 1:]] + rounding[order[:, :-1]]
        sorted_places = np.zeros(order.shape, dtype=places.dtype)
        np.cumsum(another, axis=1, out=sorted_places[:, 1:])
        found = np.empty_like(sorted_places)
        np.put_along_axis(found, order, sorted_places, axis=1)
        places[:, start : start + BLOCK] = found.T
    return places


def _better_by_retraining(values: Floats, results: Sequence[MetricResult]) -> Counts:
    """Return for each row how many are better by the interval of `retrained_interval`, over seeds and pictures.

    Args:
        values: [n, seeds * pictures], larger is better.
        results: of the rows, each with training noise.
    """
    noise = [result.noise for result in results if result.noise is not None]
    pictures = values.reshape(len(values), results[0].clusters, -1).mean(axis=1)
    means, count = pictures.mean(axis=1), pictures.shape[1]
    error = np.array([each.error for each in noise])
    quantile = t.ppf(0.975, [each.freedom for each in noise])  # of two, that of the fewer degrees of freedom
    centered = pictures - pictures.mean(axis=0)
    centered -= centered.mean(axis=1, keepdims=True)
    second = (centered**2).sum(axis=1)
    better = np.zeros(len(values), dtype=np.int64)
    for row in range(len(values)):
        variance = (second + second[row] - 2 * (centered @ centered[row])).clip(0.0) / max(count - 1, 1)
        seeds = np.maximum(quantile, quantile[row]) * np.hypot(error, error[row]) / np.sqrt(2)  # two estimates of one
        half = np.hypot(seeds, norm.ppf(0.975) * np.sqrt(variance / count))
        better[row] = (means - means[row] > half).sum()
    return better
