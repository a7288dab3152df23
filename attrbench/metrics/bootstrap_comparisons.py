"""Comparisons of every two runs at once by the paired bootstrap of `paired_difference`, for boards of many runs.

`paired_difference` draws the same resamples for any two runs, so they are drawn once, and the mean of each run in each
resample is kept. Most pairs are settled by the difference of their means in standard errors (`_Screen`). The others are
compared in every resample (`_Resampled`): one run is better where it is the higher in enough of them.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from attrbench.metrics.intervals import resamples, resampling_weights

BLOCK = 256
"""Number of runs that a thread compares with others at once."""
THREADS = 8
"""Most threads; each needs memory for the differences of BLOCK runs and all others."""
CELL, PAIRS = (8, 32), 64
"""Numbers of runs and others, and of pairs, that are compared in all resamples at once, in the processor's cache."""
LARGEST = 32_000
"""Integer that the largest mean is kept as."""
WHOLE = np.iinfo(np.int16).min, np.iinfo(np.int16).max
EQUAL = 1e-12
"""Relative difference of two means up to which they are one number, rounded differently."""
NEVER, ALWAYS = 0.74, 3.26
"""Mean difference in standard errors below which no interval, and above which each begins above 0."""

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Counts = NDArray[np.int64]
Truths = NDArray[np.bool_]


def better_by_bootstrap(values: Floats) -> Counts:
    """Return for each row how many rows have a higher mean by the bootstrap interval of `paired_difference`.

    Args:
        values: [n, m] values of each run on the same m queries, at least two; larger is better.
    """
    rows, place, copies = np.unique(values, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(-rows.mean(axis=1), kind="stable")
    screen, resampled = _Screen(rows[order]), _Resampled(rows[order])

    def beating(start: int) -> Counts:
        with np.errstate(all="ignore"):  # what is not a number there is compared in every resample
            beaten, unsure = screen.settled(start)
            beaten |= resampled.beaten(start, unsure)
        return beaten @ copies[order[: beaten.shape[1]]]

    counts = np.empty(len(rows), dtype=np.int64)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, THREADS)) as threads:
        counts[order] = np.concatenate(list(threads.map(beating, range(0, len(rows), BLOCK))))
    return counts[place.reshape(-1)]


class _Screen:
    """The comparisons that need no resampling: runs whose means are many standard errors apart, or hardly any.

    The percentile interval begins above 0 where z, the difference of the means in units of its standard error, exceeds
    a limit near 1.96, which depends on the differences. If one query decides alone, its number of draws is Poisson with
    mean 1, and the limit may be as low as 1 or as high as 3; the more queries take part, the nearer to 1.96.

    Args:
        rows: [n, m] different values of each run, sorted with the highest mean first.
    """

    def __init__(self, rows: Floats) -> None:
        self.means, self.queries = rows.mean(axis=1), rows.shape[1]
        near = rows - rows.mean(axis=0)  # for the precision of the products
        x = near - near.mean(axis=1, keepdims=True)
        second, fourth, one = (x**2).sum(axis=1)[:, None], (x**4).sum(axis=1)[:, None], np.ones((len(rows), 1))
        self._own = second[:, 0]
        # The sum over queries of (a - b)^2, or ^4, of two runs is the product of two rows, when multiplied out.
        self._second = np.hstack([-2 * x, one, second]), np.hstack([x, second, one]).T
        self._fourth = np.hstack([-4 * x, 6 * x**2, -4 * x**3, one, fourth]), np.hstack([x**3, x**2, x, fourth, one]).T

    def settled(self, start: int) -> tuple[Truths, Truths]:
        """Return [runs, stop] whether each run of a block is beaten by each up to its end, and whether that is open."""
        stop = min(start + BLOCK, len(self.means))
        second = self._second[0][start:stop] @ self._second[1][:, :stop]
        second[second < 1e-10 * self._own[:stop]] = np.nan  # nothing but rounding is left
        difference = self.means[:stop] - self.means[start:stop, None]
        z = difference * self.queries / np.sqrt(second)
        beaten: Truths = z > ALWAYS
        unsure: Truths = (difference > 0) & ~beaten & ~(z < NEVER)
        rows, others = np.nonzero(unsure)
        z, second = z[rows, others], second[rows, others]
        fourth = (self._fourth[0][start:stop] @ self._fourth[1][:, :stop])[rows, others]
        # How far one query decides alone, from 0 to 1; beyond the precision of the sums, as if it did.
        reach = np.where(second > 1e-4 * self._own[others], np.sqrt(fourth) / second, 1.0)
        lower, upper = self.limits(reach)
        beaten[rows, others] = z > upper
        unsure[rows, others] = ~(z > upper) & ~(z < lower)
        return beaten, unsure

    @staticmethod
    def limits(reach: Floats) -> tuple[Floats, Floats]:
        """Return for a reach from 0 to 1 below which z no interval begins above 0, and above which each does."""
        return 1.74 - reach, 2.16 + 1.1 * reach


class _Resampled:
    """The means of runs in every resample, to count those in which one run is higher than another.

    They are kept in single precision, and as 16-bit integers, which compare twice as fast. Where those are too near to
    tell, single precision decides, and where it is, the difference is added up as SciPy does it, so that its result is
    found even where means are equal but for rounding.

    Args:
        rows: [n, m] values of each run.
    """

    def __init__(self, rows: Floats) -> None:
        self.rows, self.draws = rows, resamples(rows.shape[1])
        self.weights = resampling_weights(self.draws)
        self.last = int(0.025 * (len(self.draws) - 1))  # the interval begins between the means at `last` and `last` + 1
        middle = np.median(rows, axis=0)  # for the precision of what is kept
        self.means = np.empty((len(rows), len(self.draws)), dtype=np.float32)
        for start in range(0, len(rows), BLOCK):
            self.means[start : start + BLOCK] = (rows[start : start + BLOCK] - middle) @ self.weights.T
        size, single = np.abs(rows).mean(axis=1) + np.abs(middle).mean(), 2 * np.finfo(np.float32).eps
        self.rounding = (EQUAL * size + single * np.abs(self.means).max(axis=1)).astype(np.float32)
        step = (float(np.abs(self.means).max()) or 1.0) / LARGEST
        self.codes = np.rint(self.means / np.float32(step)).astype(np.int16)
        self.margin = 1 + math.ceil(min(2 * float(self.rounding.max()) / step, LARGEST))  # two may be nearer than this

    def beaten(self, start: int, unsure: Truths) -> Truths:
        """Return whether runs from a place on are beaten by others, for the [runs, others] pairs that are unsure."""
        higher, lower = self._counts(start, unsure)
        beaten = unsure & (len(self.draws) - higher <= self.last)
        runs, others = np.nonzero(unsure & ~beaten & (lower <= self.last + 1))
        for first in range(0, len(runs), PAIRS):
            part = runs[first : first + PAIRS], others[first : first + PAIRS]
            beaten[part] = self._beaten_narrowly(start + part[0], part[1])
        return beaten

    def _counts(self, start: int, unsure: Truths) -> tuple[Counts, Counts]:
        """Return [runs, others] in how many resamples each other is higher than a run, and lower, beyond rounding.

        They are counted in small blocks that hold a pair that is unsure, and are 0 elsewhere.
        """
        higher, lower = np.zeros((2, *unsure.shape), dtype=np.int64)
        holds = np.empty((*CELL, len(self.draws)), dtype=np.bool_)
        for first in range(0, len(unsure), CELL[0]):
            some = unsure[first : first + CELL[0]].any(axis=0)
            group = self.codes[start + first : start + first + CELL[0]].astype(np.int32)
            floor, ceiling = (np.clip(group + way * self.margin, *WHOLE).astype(np.int16) for way in (-1, 1))
            for left in np.unique(np.flatnonzero(some) // CELL[1]) * CELL[1]:
                cell = slice(first, first + CELL[0]), slice(left, left + CELL[1])
                others = self.codes[: unsure.shape[1]][cell[1]]
                where = holds[: len(floor), : len(others)]
                higher[cell] = _trues(np.greater(others, ceiling[:, None], out=where))
                lower[cell] = _trues(np.less(others, floor[:, None], out=where))
        return higher, lower

    def _beaten_narrowly(self, runs: Counts, others: Counts) -> Truths:
        """Return for pairs of runs whether the other is better, where means decide that are equal or nearly so."""
        apart = np.subtract(self.means[others], self.means[runs], dtype=np.float64)
        margin = (self.rounding[others] + self.rounding[runs])[:, None]
        near, differences = ~(np.abs(apart) > margin), self.rows[others] - self.rows[runs]
        pairs, draws = np.divmod(np.flatnonzero(near), apart.shape[1])
        apart[near] = differences[pairs[:, None], self.draws[draws]].mean(axis=1)  # as SciPy adds them up
        below, up_to_0 = _trues(apart < 0), _trues(apart <= 0)
        beaten: Truths = (below <= self.last) & (up_to_0 <= self.last + 1)
        across = np.flatnonzero((below == self.last + 1) & (up_to_0 == self.last + 1))
        percentile = self._across(apart[across])
        beaten[across] = percentile > 0
        unclear = across[np.abs(percentile) <= 2 * margin[across, 0]]
        if len(unclear):
            exact = np.where(near[unclear], apart[unclear], differences[unclear] @ self.weights.T)
            beaten[unclear] = self._across(exact) > 0
        return beaten

    def _across(self, means: Floats) -> Floats:
        """Return the 2.5% percentile of rows of means, where it lies between the last below 0 and the first above."""
        below = np.where(means < 0, means, -np.inf).max(axis=1)
        above = np.where(means > 0, means, np.inf).min(axis=1)
        part = 0.025 * (len(self.draws) - 1) - self.last
        percentile: Floats = above - (above - below) * (1 - part)
        return percentile


def _trues(truths: Truths) -> Counts:
    """Return how many of the last axis are true; eight are added at once, as the bytes of an integer.

    Fewer than 256 times eight, so that no byte overflows.
    """
    eight = truths.view(np.uint64).sum(axis=-1)
    counts: Counts = eight.view(np.uint8).reshape(*eight.shape, 8).sum(axis=-1, dtype=np.int64)
    return counts
