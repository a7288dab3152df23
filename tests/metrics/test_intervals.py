import numpy as np
import pytest

from attrbench.metrics import intervals
from attrbench.metrics.intervals import mean_interval, paired_difference


def test_interval_covers_the_true_mean_about_95_times_in_100(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 400)
    rng, covered = np.random.default_rng(0), 0
    for seed in range(300):
        low, high = mean_interval(rng.normal(0.3, 1.0, 40), seed)
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / 300 <= 0.985


def test_interval_is_about_two_standard_errors_to_each_side():
    values = np.random.default_rng(1).normal(size=100)
    low, high = mean_interval(values)
    error = values.std() / 10
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.15 * error)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_fewer_than_two_queries_have_no_interval(values):
    assert mean_interval(values) is None


def test_constant_values_have_a_degenerate_interval():
    assert mean_interval([0.25] * 8) == (0.25, 0.25)


def test_interval_lies_within_the_values_and_around_their_mean():
    values = [0.0, 0.0, 0.2, 1.0, 0.4]
    low, high = mean_interval(values)
    assert 0 <= low < np.mean(values) < high <= 1


def test_interval_is_decided_by_values_and_seed():
    values = np.random.default_rng(2).random(20)
    assert mean_interval(values, 3) == mean_interval(list(values), 3)
    assert mean_interval(values, 3) != mean_interval(values, 4)


def test_paired_difference_is_narrower_than_the_values_are_apart():
    """Queries differ much, the methods by a constant and a little noise: only pairing sees it."""
    rng = np.random.default_rng(3)
    a = rng.normal(0, 10, 50)
    low, high = paired_difference(a, a - 1 + rng.normal(0, 0.1, 50))
    assert 0.9 < low < high < 1.1
    low, high = mean_interval(a)
    assert high - low > 3


def test_clusters_that_differ_widen_the_interval_to_cover_them():
    rng = np.random.default_rng(0)
    seeds = np.array([0.0, 0.3, 0.6])[:, None] + 0.1 * rng.standard_normal((3, 200))
    plain, clustered = mean_interval(seeds.ravel()), mean_interval(seeds.ravel(), clusters=3)
    assert plain[1] - plain[0] < 0.1
    assert clustered[0] < 0.05 and clustered[1] > 0.55
    assert clustered == mean_interval(seeds.ravel(), clusters=3)


def test_clusters_that_agree_have_the_interval_of_their_values():
    values = np.tile(np.random.default_rng(0).standard_normal(300), 2)
    plain, clustered = mean_interval(values), mean_interval(values, clusters=2)
    assert np.subtract(*clustered) == pytest.approx(np.subtract(*plain), rel=0.15)


def test_equal_values_have_an_interval_of_width_zero_in_clusters_too():
    assert mean_interval([0.25] * 8, clusters=2) == (0.25, 0.25)


@pytest.mark.slow
def test_clustered_intervals_cover_the_truth_about_as_often_as_they_say():
    """With ten clusters; with two or three the bootstrap is known to be too narrow, which the docs say."""
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(60):
        values = rng.standard_normal((10, 1)) + rng.standard_normal((10, 20))
        low, high = mean_interval(values.ravel(), trial, clusters=10)
        hits += low <= 0 <= high
    assert 0.8 <= hits / 60 <= 1
