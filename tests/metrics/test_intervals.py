import numpy as np
import pytest

from attrbench.metrics import intervals
from attrbench.metrics.intervals import mean_interval, paired_difference, retrained_interval


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


def test_the_interval_of_retrained_models_adds_the_noise_of_training_to_that_of_pictures():
    values = np.random.default_rng(0).normal(1, 1, (2, 400))
    pictures = 1.96 * values.mean(0).std(ddof=1) / 20
    low, high = retrained_interval(values, error=0.0, freedom=5)
    assert (high - low) / 2 == pytest.approx(pictures, rel=1e-3) and (low + high) / 2 == pytest.approx(values.mean())
    low, high = retrained_interval(values, error=0.1, freedom=5)
    assert (high - low) / 2 == pytest.approx(np.hypot(pictures, 2.5706 * 0.1), rel=1e-3)  # Student's t of five
    few, many = (np.diff(retrained_interval(values, error=0.1, freedom=n)) for n in (2, 100))
    assert few > many


def test_a_single_picture_has_the_noise_of_training_only():
    low, high = retrained_interval(np.array([[0.5], [0.7]]), error=0.1, freedom=5)
    assert (low, high) == pytest.approx((0.6 - 0.25706, 0.6 + 0.25706), rel=1e-3)
