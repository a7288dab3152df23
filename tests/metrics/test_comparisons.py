"""Runs are compared over training seeds where both have such noise, by bootstrap otherwise, or not at all."""

import numpy as np
import pytest

from attrbench.contracts.record import MetricResult, TrainingNoise
from attrbench.metrics.comparisons import better_runs
from attrbench.metrics.intervals import retrained_interval


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
