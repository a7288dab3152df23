"""Ranks from comparisons of all runs at once are those of comparing every two by themselves."""

import time

import numpy as np
import pytest

from attrbench.contracts.record import MetricResult, TrainingNoise
from attrbench.metrics.comparisons import _Pairs, better_by_bootstrap, better_runs
from attrbench.metrics.intervals import (
    mean_interval,
    paired_difference,
    resamples,
    resampling_weights,
    retrained_interval,
)


def near_copies(rng, n, m):
    """Runs that differ in few queries, so that one of them may decide alone."""
    return np.where(rng.random((n, m)) < 2 / m, rng.integers(0, 11, (n, m)) / 10, np.linspace(0, 1, m))


BOARDS = {
    "noise": lambda rng, n, m: rng.random((n, m)),
    "spread": lambda rng, n, m: rng.random((n, 1)) + 0.3 * rng.standard_normal((n, m)),
    "tenths": lambda rng, n, m: rng.binomial(10, rng.random((n, 1)), (n, m)) / 10,
    "hits": lambda rng, n, m: (rng.random((n, m)) < rng.random((n, 1))).astype(float),
    "near copies": near_copies,
    "tiny differences": lambda rng, n, m: rng.random(m) + 1e-7 * rng.standard_normal((n, m)),
    "outliers": lambda rng, n, m: rng.standard_t(1.2, (n, m)),
    "negative": lambda rng, n, m: -rng.exponential(1.0, (n, m)),
}


def result(values, *, clusters=1, noise=None, higher=True, interval=True):
    low, high = (min(values), max(values)) if interval else (None, None)
    return MetricResult(
        metric="m",
        k=None,
        value=float(np.mean(values)),
        low=low,
        high=high,
        ceiling=None,
        random=None,
        per_query=list(values),
        higher_is_better=higher,
        clusters=clusters,
        noise=noise,
    )


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
    monkeypatch.setattr("attrbench.metrics.comparisons.ALWAYS", np.inf)  # every pair of unequal means is resampled
    monkeypatch.setattr("attrbench.metrics.comparisons.NEVER", -np.inf)
    monkeypatch.setattr(_Pairs, "limits", staticmethod(lambda reach: (-np.inf, np.inf)))
    assert quick.tolist() == better_by_bootstrap(values).tolist()


def test_equal_runs_and_a_constant_difference_are_told_apart():
    base = np.random.default_rng(0).random(30)
    assert better_by_bootstrap(np.stack([base, base, base + 0.25, base])).tolist() == [1, 1, 0, 1]


def test_resamples_are_those_of_the_interval_of_one_run():
    values = np.random.default_rng(0).random(23)
    means = resampling_weights(resamples(23)) @ values
    assert np.percentile(means, [2.5, 97.5]) == pytest.approx(mean_interval(values), abs=1e-12)


@pytest.mark.parametrize("higher", [True, False])
def test_runs_with_training_noise_are_compared_by_its_interval(higher):
    rng = np.random.default_rng(0)
    noises = [TrainingNoise(error=float(rng.uniform(0.01, 0.1)), freedom=int(rng.integers(2, 9))) for _ in range(20)]
    values = rng.random((20, 1)) + 0.3 * rng.standard_normal((20, 24))
    expected = []
    for own, mine in zip(values, noises, strict=True):
        better = 0
        for other, theirs in zip(values, noises, strict=True):
            difference = (other - own if higher else own - other).reshape(3, -1)
            error = np.hypot(mine.error, theirs.error) / np.sqrt(2)
            better += retrained_interval(difference, error, min(mine.freedom, theirs.freedom))[0] > 0
        expected.append(better)
    results = [result(row, clusters=3, noise=noise, higher=higher) for row, noise in zip(values, noises, strict=True)]
    assert better_runs(results).tolist() == expected
    assert any(expected)


def test_a_run_without_training_noise_is_compared_by_the_bootstrap():
    low, high = np.full(20, 0.1) + 0.01 * np.arange(20), np.full(20, 0.9)
    noise = TrainingNoise(error=100.0, freedom=3)  # by which nothing would be told apart
    assert better_runs([result(low, noise=noise), result(high)]).tolist() == [1, 0]
    assert better_runs([result(low, noise=noise), result(high, noise=noise)]).tolist() == [0, 0]


def test_runs_with_other_queries_or_without_an_interval_are_never_told_apart():
    low, high = np.full(20, 0.1), np.full(20, 0.9)
    assert better_runs([result(low), result(high[:10])]).tolist() == [0, 0]
    assert better_runs([result(low), result(high, interval=False)]).tolist() == [0, 0]
    assert better_runs([result(low), result(high)]).tolist() == [1, 0]
    assert better_runs([]).tolist() == []


@pytest.mark.slow
def test_two_thousand_runs_are_compared_in_seconds():
    values = np.random.default_rng(0).random((2000, 100))  # two million pairs, none far apart
    started = time.process_time()
    better_by_bootstrap(values)
    assert time.process_time() - started < 20
