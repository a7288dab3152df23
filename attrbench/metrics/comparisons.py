"""Comparisons of every two runs on a leaderboard at once: for each, the number of those that are significantly better.

Each run is a row of values, one for each query (or picture). `paired_difference` draws the same resamples for any two
runs, so they are drawn once, and the mean of each run in each resample is kept as its place among all runs: two runs
are then compared by counting the resamples in which the first is not the higher.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from attrbench.contracts.record import MetricResult
from attrbench.metrics.intervals import paired_difference, resamples, resampling_weights, retrained_interval

BLOCK = 256
"""Number of runs that are compared with all others at once; keeps the arrays in the processor's cache."""
EQUAL = 1e-12
"""Relative difference of two means up to which they are one number, rounded differently."""
NEVER, ALWAYS = 0.74, 3.26
"""Mean difference in standard errors below which no interval, and above which each begins above 0."""

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


def result_difference(a: MetricResult, b: MetricResult) -> tuple[float, float] | None:
    """Return the 95% interval of the difference of two results on equal queries; positive where `a` is higher.

    It is the interval by which `better_runs` decides: over queries by bootstrap, and over training seeds and pictures
    where both results have training noise. None for results that can't be compared, or a single value.
    """
    shapes = [(len(each.per_query), each.clusters) for each in (a, b)]
    if shapes[0] != shapes[1] or shapes[0][0] < 2 or a.low is None or b.low is None:
        return None
    if a.noise is None or b.noise is None:
        return paired_difference(a.per_query, b.per_query)
    differences = np.array(a.per_query, dtype=np.float64) - np.array(b.per_query, dtype=np.float64)
    error = math.hypot(a.noise.error, b.noise.error) / math.sqrt(2)  # two estimates of one
    return retrained_interval(differences.reshape(a.clusters, -1), error, min(a.noise.freedom, b.noise.freedom))


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
        with np.errstate(all="ignore"):  # what is not a number there is compared in every resample
            counts[order[start:stop]] = pairs.beaten(start, stop) @ copies[order[:stop]]
    return counts[place.reshape(-1)]


class _Pairs:
    """All pairs of runs with different values, sorted with the highest mean first, to tell which are separated.

    Most pairs are settled by z, the difference of the means in units of its standard error. The percentile interval
    begins above 0 where z exceeds a limit near 1.96, which depends on the differences. If one query decides alone, its
    number of draws is Poisson with mean 1, and the limit may be as low as 1 or as high as 3; the more queries take
    part, the nearer to 1.96. Pairs with z within the reach of the limit are compared in every resample.
    """

    def __init__(self, rows: Floats) -> None:
        self.rows, self.means = rows, rows.mean(axis=1)
        self.draws = resamples(rows.shape[1])
        self.weights = resampling_weights(self.draws)
        self.rounding = EQUAL * np.abs(rows).mean(axis=1)
        self.places, self.tied = _places(rows, self.weights, self.rounding)
        self._lower = np.empty((2 * BLOCK, len(self.weights)), dtype=np.bool_)
        self._taken = np.empty((BLOCK, len(self.weights)), dtype=self.places.dtype)
        near = rows - rows.mean(axis=0)  # for the precision of the products
        x = near - near.mean(axis=1, keepdims=True)
        second, fourth, one = (x**2).sum(axis=1)[:, None], (x**4).sum(axis=1)[:, None], np.ones((len(rows), 1))
        self._own = second[:, 0]
        # The sum over queries of (a - b)^2, or ^4, of two runs is the product of two rows, when multiplied out.
        self._second = np.hstack([-2 * x, one, second]), np.hstack([x, second, one]).T
        self._fourth = np.hstack([-4 * x, 6 * x**2, -4 * x**3, one, fourth]), np.hstack([x**3, x**2, x, fourth, one]).T

    def beaten(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Return [stop - start, stop] whether each of these runs is beaten by each run up to `stop`."""
        second = self._second[0][start:stop] @ self._second[1][:, :stop]
        second[second < 1e-10 * self._own[:stop]] = np.nan  # nothing but rounding is left
        difference = self.means[:stop] - self.means[start:stop, None]
        z = difference * self.rows.shape[1] / np.sqrt(second)
        beaten: NDArray[np.bool_] = z > ALWAYS
        rows, others = np.nonzero((difference > 0) & ~beaten & ~(z < NEVER))
        z, second = z[rows, others], second[rows, others]
        fourth = (self._fourth[0][start:stop] @ self._fourth[1][:, :stop])[rows, others]
        # How far one query decides alone, from 0 to 1; beyond the precision of the sums, as if it did.
        reach = np.where(second > 1e-4 * self._own[others], np.sqrt(fourth) / second, 1.0)
        lower, upper = self.limits(reach)
        above, below = z > upper, z < lower
        beaten[rows, others] = above
        rows, others = rows[~above & ~below], others[~above & ~below]
        for row, candidates in enumerate(np.split(others, np.searchsorted(rows, np.arange(1, stop - start)))):
            if len(candidates):
                beaten[row, candidates] = self._compare(start + row, candidates)
        return beaten

    @staticmethod
    def limits(reach: Floats) -> tuple[Floats, Floats]:
        """Return for a reach from 0 to 1 below which z no interval begins above 0, and above which each does."""
        return 1.74 - reach, 2.16 + 1.1 * reach

    def _compare(self, row: int, candidates: Counts) -> NDArray[np.bool_]:
        """Return whether each candidate beats a run, from the number of resamples in which it is not the higher."""
        last = int(0.025 * (len(self.draws) - 1))  # the interval begins between the means at `last` and `last` + 1
        counts = self._count(np.less_equal, row, candidates)
        beats: NDArray[np.bool_] = counts <= last
        unsure = np.flatnonzero((counts == last + 1) | ((counts > last) & self.tied[row] & self.tied[candidates]))
        if self.tied[row] and len(unsure):
            unsure = unsure[self._count(np.less, row, candidates[unsure]) <= last + 1]
        for start in range(0, len(unsure), BLOCK // 4):
            part = unsure[start : start + BLOCK // 4]
            beats[part] = self._interval_begins_above_zero(row, candidates[part], last)
        return beats

    def _count(self, compare: np.ufunc, row: int, candidates: Counts) -> Counts:
        """Return for sorted candidates in how many resamples each is lower than a run (or equal, as `compare` says)."""
        parts = [candidates[start : start + BLOCK] for start in range(0, len(candidates), BLOCK)]
        return np.concatenate([self._count_block(compare, row, part) for part in parts])

    def _count_block(self, compare: np.ufunc, row: int, candidates: Counts) -> Counts:
        """Return the counts of `_count` for up to BLOCK candidates."""
        first, end = int(candidates[0]), int(candidates[-1]) + 1
        if end - first <= len(self._lower):  # a stretch of neighbors is compared as it lies, without a copy
            places, chosen = self.places[first:end], candidates - first
        else:
            places = np.take(self.places, candidates, axis=0, out=self._taken[: len(candidates)])
            chosen = np.arange(len(candidates))
        lower = compare(places, self.places[row], out=self._lower[: len(places)])
        # Eight truth values are added at once as the bytes of an integer: fewer than 256 such, so none overflows.
        eight = lower.view(np.uint64).sum(axis=1).view(np.uint8).reshape(-1, 8)
        counts: Counts = eight.sum(axis=1, dtype=np.int64)
        return counts[chosen]

    def _interval_begins_above_zero(self, row: int, candidates: Counts, last: int) -> NDArray[np.bool_]:
        """Return whether the 2.5% percentile lies above 0, where one of the two means that it lies between may not.

        Means that are 0 but for rounding are taken as SciPy adds them up, so that its result is found to the last bit.
        """
        differences = self.rows[candidates] - self.rows[row]
        means = differences @ self.weights.T
        if self.tied[row]:
            pairs, draws = np.nonzero(np.abs(means) <= (self.rounding[candidates] + self.rounding[row])[:, None])
            means[pairs, draws] = differences[pairs[:, None], self.draws[draws]].mean(axis=1)
        below, above = np.partition(means, (last, last + 1), axis=1)[:, last : last + 2].T
        part = 0.025 * (len(self.draws) - 1) - last
        return np.asarray(above - (above - below) * (1 - part) > 0)


def _places(rows: Floats, weights: Floats, rounding: Floats) -> tuple[NDArray[np.unsignedinteger], NDArray[np.bool_]]:
    """Return [n, resamples] the place of each run's mean among all runs, equal for equal means, and which share one."""
    tied = np.zeros(len(rows), dtype=np.bool_)
    places = np.empty((len(rows), len(weights)), dtype=np.uint16 if len(rows) < 1 << 16 else np.uint32)
    for start in range(0, len(weights), BLOCK):
        means = weights[start : start + BLOCK] @ rows.T
        order = np.argsort(means, axis=1)
        gaps = np.diff(np.take_along_axis(means, order, axis=1), axis=1)
        another = gaps > rounding[order[:, 1:]] + rounding[order[:, :-1]]
        tied[order[:, 1:][~another]] = tied[order[:, :-1][~another]] = True
        sorted_places = np.zeros(order.shape, dtype=places.dtype)
        np.cumsum(another, axis=1, out=sorted_places[:, 1:])
        found = np.empty_like(sorted_places)
        np.put_along_axis(found, order, sorted_places, axis=1)
        places[:, start : start + BLOCK] = found.T
    return places, tied


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
