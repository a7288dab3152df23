"""Rank correlations of two metrics over runs: their value, their interval over methods, and missing values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attrbench.metrics.lds import rank_correlation
from attrbench.metrics.metric_agreement import metric_agreement, weighted_rank_correlation


def test_metrics_that_order_runs_alike_agree_and_those_of_opposite_order_disagree():
    a, methods = np.arange(12.0), [f"m{i}" for i in range(12)]
    same, opposite = metric_agreement(a, a**3, methods), metric_agreement(a, -a, methods)
    assert (same.value, same.low, same.high) == pytest.approx((1, 1, 1))
    assert (opposite.value, opposite.low, opposite.high) == pytest.approx((-1, -1, -1))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=4, max_size=12))
def test_a_weight_counts_a_run_as_often_as_it_says(rows):
    a, b, weights = np.array(rows, dtype=float).T
    repeated = [np.repeat(values, weights.astype(int)) for values in (a, b)]
    if min((np.ptp(values) if len(values) else 0) for values in repeated) == 0:
        return
    found = weighted_rank_correlation(a, b, weights[None])[0]
    assert found == pytest.approx(rank_correlation(repeated[0][None], repeated[1][None])[0])


def test_runs_without_one_of_the_metrics_do_not_count():
    a = np.array([1, 2, np.nan, 4, 5.0])
    b = np.array([1, 2, 99, 4, np.inf])
    found = metric_agreement(a, b, list("abcde"))
    assert (found.value, found.runs) == (1, 3)
    assert metric_agreement(a[:3], b[:3], list("abc")) is None


def test_a_metric_with_one_value_for_all_orders_nothing():
    values, names = np.arange(6.0), list("abcdef")
    assert metric_agreement(values, np.ones(6), names) is None
    nearly = metric_agreement(values, np.array([1.0, 1, 1, 1, 1, 0]), names)
    assert nearly is not None and nearly.low is None and nearly.high is None


def test_many_runs_of_one_method_make_the_interval_no_narrower():
    rng = np.random.default_rng(0)
    a, b, names = rng.normal(size=8), rng.normal(size=8), [f"m{i}" for i in range(8)]
    once, often = metric_agreement(a, b, names), metric_agreement(np.tile(a, 9), np.tile(b, 9), names * 9)
    assert often.high - often.low >= 0.9 * (once.high - once.low)


def test_the_interval_holds_the_true_zero_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    names = [f"m{i // 2}" for i in range(40)]
    held = 0
    for _ in range(60):
        a, b = (np.repeat(rng.normal(size=20), 2) + 0.1 * rng.normal(size=40) for _ in range(2))
        found = metric_agreement(a, b, names)
        held += found.low <= 0 <= found.high
    assert held >= 52
