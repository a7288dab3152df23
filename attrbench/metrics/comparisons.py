"""Comparisons of every two runs on a leaderboard at once: for each, the number of those that are significantly better.

Each run is a row of values, one for each query (or picture). Two runs of retrained models are compared over these
models and the queries or pictures, any others by bootstrap over the queries.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import ndtri, stdtrit

from attrbench.contracts.record import MetricResult, TrainingNoise
from attrbench.metrics.bootstrap_comparisons import EQUAL, Counts, Floats, better_by_bootstrap
from attrbench.metrics.intervals import paired_difference, retrained_interval

Bank = tuple[int, float | None]
"""What tells banks of retrained models apart: the number of parts of a result's noise, and its ceiling."""


def bank_of(result: MetricResult) -> Bank | None:
    """Return what tells the bank of a result from others; None where it is of none, or of a record without parts.

    A bank that was enlarged has more parts, or another ceiling.
    """
    if result.noise is None or result.noise.parts is None:
        return None
    known = result.ceiling is not None and math.isfinite(result.ceiling)
    return len(result.noise.parts), round(result.ceiling, 6) if known and result.ceiling is not None else None


def have_different_banks(a: MetricResult, b: MetricResult) -> bool:
    """Return whether two results are known to be of different banks of retrained models."""
    banks = bank_of(a), bank_of(b)
    return None not in banks and banks[0] != banks[1]


def better_runs(results: Sequence[MetricResult]) -> Counts:
    """Return for each run how many of the others are significantly better: the 95% interval of the difference is > 0.

    Results with different numbers of values (a ground truth with other seeds or images), of different banks of
    retrained models, or without an interval are never significantly different.

    Args:
        results: the result of one metric for each run, all values finite.
    """
    counts = np.zeros(len(results), dtype=np.int64)
    groups: dict[tuple[int, int, bool, Bank | None], list[int]] = {}
    usual = most_usual_bank(results)
    for place, result in enumerate(results):
        if result.low is not None and result.high is not None and len(result.per_query) > 1:
            shape = len(result.per_query), result.clusters, result.higher_is_better
            groups.setdefault((*shape, bank_of(result) or usual), []).append(place)
    for places in groups.values():
        counts[places] = _better_in_group([results[place] for place in places])
    return counts


def most_usual_bank(results: Sequence[MetricResult]) -> Bank | None:
    """Return the bank of most of the results whose bank is known; None where there is none."""
    known = Counter(bank for result in results if (bank := bank_of(result)) is not None)
    return known.most_common(1)[0][0] if known else None


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

    It is the interval by which `better_runs` decides: over queries by bootstrap, and over retrained models and queries
    or pictures where both results have training noise. None for results that can't be compared, or a single value.
    """
    shapes = [(len(each.per_query), each.clusters) for each in (a, b)]
    if shapes[0] != shapes[1] or shapes[0][0] < 2 or a.low is None or b.low is None or have_different_banks(a, b):
        return None
    if a.noise is None or b.noise is None:
        return paired_difference(a.per_query, b.per_query)
    differences = np.array(a.per_query, dtype=np.float64) - np.array(b.per_query, dtype=np.float64)
    freedom = min(a.noise.freedom, b.noise.freedom)
    return retrained_interval(differences.reshape(a.clusters, -1), a.noise.of_difference(b.noise), freedom)


def _better_by_retraining(values: Floats, results: Sequence[MetricResult]) -> Counts:
    """Return for each row how many are better by `retrained_interval`, over models and queries or pictures.

    Args:
        values: [n, seeds * pictures], larger is better.
        results: of the rows, each with training noise.
    """
    noise = [result.noise for result in results if result.noise is not None]
    pictures = values.reshape(len(values), results[0].clusters, -1).mean(axis=1)
    means, count = pictures.mean(axis=1), pictures.shape[1]
    quantile = stdtrit([each.freedom for each in noise], 0.975)  # of two, that of the fewer degrees of freedom
    centered = pictures - pictures.mean(axis=0)
    centered -= centered.mean(axis=1, keepdims=True)
    second = (centered**2).sum(axis=1)
    better = np.zeros(len(values), dtype=np.int64)
    for row, error in enumerate(_errors_of_differences(noise)):
        variance = (second + second[row] - 2 * (centered @ centered[row])).clip(0.0) / max(count - 1, 1)
        models = np.maximum(quantile, quantile[row]) * error
        half = np.hypot(models, ndtri(0.975) * np.sqrt(variance / count))
        rounding = EQUAL * (abs(means) + abs(means[row]))  # runs of equal options differ by it, and by nothing else
        better[row] = (means - means[row] > half + rounding).sum()
    return better


def _errors_of_differences(noise: Sequence[TrainingNoise]) -> Iterator[Floats]:
    """Yield for each run the errors of its differences from all runs: `TrainingNoise.of_difference` of many at once."""
    counts = np.array([len(each.parts or ()) for each in noise])
    if counts.any() and (counts == counts[0]).all():
        parts = np.array([each.parts for each in noise])
        yield from (np.linalg.norm(parts - row, axis=1) for row in parts)
    else:
        yield from (np.array([one.of_difference(each) for each in noise]) for one in noise)
