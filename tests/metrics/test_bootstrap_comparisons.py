"""Comparisons of all runs at once by bootstrap are those of comparing every two by themselves."""

import time

import numpy as np
import pytest

from attrbench.metrics import bootstrap_comparisons
from attrbench.metrics.bootstrap_comparisons import _Screen, better_by_bootstrap
from attrbench.metrics.intervals import mean_interval, paired_difference, resamples, resampling_weights


def near_copies(rng, n, m):
    """Runs that differ in few queries, so that one of them may decide alone."""
    return np.where(rng.random((n, m)) < 2 / m, rng.integers(0, 11, (n, m)) / 10, np.linspace(0, 1, m))


def near_the_limit(rng, n, m):
    """Runs of tenths that are better than the first by about the 1.96 standard errors at which that is significant."""
    rows = rng.binomial(10, rng.uniform(0.3, 0.7, (200 * n, 1)), (200 * n, m)) / 10
    differences = rows - rows[0]
    z = differences.mean(axis=1) / np.maximum(differences.std(axis=1), 1e-3) * np.sqrt(m)
    return np.vstack([rows[:1], rows[np.argsort(np.abs(z - 1.96), kind="stable")[: n - 1]]])


BOARDS = {
    "noise": lambda rng, n, m: rng.random((n, m)),
    "spread": lambda rng, n, m: rng.random((n, 1)) + 0.3 * rng.standard_normal((n, m)),
    "tenths": lambda rng, n, m: rng.binomial(10, rng.random((n, 1)), (n, m)) / 10,
    "hits": lambda rng, n, m: (rng.random((n, m)) < rng.random((n, 1))).astype(float),
    "near copies": near_copies,
    "near the limit": near_the_limit,
    "tiny differences": lambda rng, n, m: rng.random(m) + 1e-7 * rng.standard_normal((n, m)),
    "outliers": lambda rng, n, m: rng.standard_t(1.2, (n, m)),
    "negative": lambda rng, n, m: -rng.exponential(1.0, (n, m)),
}


@pytest.mark.slow
@pytest.mark.parametrize("queries", [2, 5, 40])
@pytest.mark.parametrize("board", BOARDS)
def test_counts_are_those_of_comparing_every_two_runs(board, queries):
    values = BOARDS[board](np.random.default_rng(queries), 14, queries)
    expected = [
        sum((interval := paired_difference(other, own)) is not None and interval[0] > 0 for other in values)
        for own in values
    ]
    assert better_by_bootstrap(values).tolist() == expected


@pytest.mark.slow
@pytest.mark.parametrize("queries", [3, 10, 100])
@pytest.mark.parametrize("board", BOARDS)
def test_pairs_that_are_settled_without_resampling_are_settled_as_by_resampling(board, queries, monkeypatch):
    values = BOARDS[board](np.random.default_rng(1), 300, queries)
    quick = better_by_bootstrap(values)
    monkeypatch.setattr(bootstrap_comparisons, "ALWAYS", np.inf)  # every pair of unequal means is resampled
    monkeypatch.setattr(bootstrap_comparisons, "NEVER", -np.inf)
    monkeypatch.setattr(_Screen, "limits", staticmethod(lambda reach: (-np.inf, np.inf)))
    assert quick.tolist() == better_by_bootstrap(values).tolist()


def test_equal_runs_and_a_constant_difference_are_told_apart():
    base = np.random.default_rng(0).random(30)
    assert better_by_bootstrap(np.stack([base, base, base + 0.25, base])).tolist() == [1, 1, 0, 1]


def test_resamples_are_those_of_the_interval_of_one_run():
    values = np.random.default_rng(0).random(23)
    means = resampling_weights(resamples(23)) @ values
    assert np.percentile(means, [2.5, 97.5]) == pytest.approx(mean_interval(values), abs=1e-12)


@pytest.mark.slow
def test_two_thousand_runs_are_compared_in_seconds():
    values = np.random.default_rng(0).random((2000, 100))  # two million pairs, none far apart
    started = time.process_time()
    better_by_bootstrap(values)
    assert time.process_time() - started < 20
