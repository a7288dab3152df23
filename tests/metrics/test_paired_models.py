"""Two methods on the same retrained models: what a model does to both alike is no error of their difference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attrbench.contracts.record import MetricResult, TrainingNoise
from attrbench.ground_truth.linear_datamodeling import _result as result_of
from attrbench.metrics.comparisons import better_runs, result_difference
from attrbench.metrics.group_effects import MEASURES, interval, model_parts, rise, top_group
from attrbench.metrics.lds import mean_score, rank_correlation

J, M, N = 24, 30, 200
TRIALS = 60


def halves(rng):
    return np.stack([rng.permutation(N) < N // 2 for _ in range(J)])


def world(rng, alike):
    """Halves, scores that say all, and losses of models with noise of their own, a part of it alike for all queries."""
    subsets, tau = halves(rng), rng.normal(size=(M, N))
    clean = -(tau @ subsets.T.astype(float))
    noise = alike * rng.normal(size=J) + np.sqrt(1 - alike**2) * rng.normal(size=(M, J))
    return subsets, tau, clean + clean.std() * noise


def lds_result(scores, subsets, losses):
    return result_of("lds", mean_score(scores @ subsets.T.astype(float), losses), None)


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_parts_of_two_runs_give_the_jackknife_error_of_their_difference(seed):
    rng = np.random.default_rng(seed)
    subsets, tau, losses = world(rng, alike=0.7)
    other = tau + rng.normal(size=tau.shape)
    found = [mean_score(scores @ subsets.T.astype(float), losses) for scores in (tau, other)]
    without = [
        np.subtract(
            *(
                rank_correlation(np.delete(scores @ subsets.T.astype(float), j, 1), -np.delete(losses, j, 1)).mean()
                for scores in (tau, other)
            )
        )
        for j in range(J)
    ]
    expected = np.sqrt((J - 1) / J * np.square(without - np.mean(without)).sum())
    a, b = (TrainingNoise(error=each.subset_error, freedom=J - 1, parts=each.subset_parts.tolist()) for each in found)
    assert a.of_difference(b) == pytest.approx(expected)
    assert a.of_difference(a) == 0


def alike_methods(rng, tau):
    return tau + rng.normal(size=tau.shape), tau + rng.normal(size=tau.shape)


def nearly_one_method(rng, tau):
    first = tau + rng.normal(size=tau.shape)
    return first, first + 0.1 * rng.normal(size=tau.shape)


def good_and_random(rng, tau):
    return tau, rng.normal(size=tau.shape)


def deaf_to_the_query(rng, tau):
    return (np.broadcast_to(rng.normal(size=N), tau.shape) for _ in range(2))


@pytest.mark.parametrize("pair", [alike_methods, nearly_one_method, good_and_random, deaf_to_the_query])
def test_the_interval_of_a_difference_holds_its_mean_over_worlds(pair):
    rng = np.random.default_rng(0)
    intervals, differences = [], []
    for _ in range(TRIALS):
        subsets, tau, losses = world(rng, alike=0.8)
        a, b = (lds_result(scores, subsets, losses) for scores in pair(rng, tau))
        intervals.append(result_difference(a, b))
        differences.append(a.value - b.value)
    low, high = np.array(intervals).T
    middle = 0.0 if pair is not good_and_random else np.mean(differences)
    assert ((low <= middle) & (middle <= high)).mean() > 0.9
    half = np.mean(high - low) / 2
    assert half < 5 * np.std(differences)  # by the error of one run alone 12 times, for nearly one method


def test_runs_of_other_numbers_of_models_and_records_without_parts_are_compared_by_the_error_of_one():
    a = TrainingNoise(error=3.0, freedom=5, parts=[1.0, 2.0])
    b = TrainingNoise(error=4.0, freedom=5, parts=[1.0, 2.0, 3.0])
    c = TrainingNoise(error=4.0, freedom=5)
    assert a.of_difference(b) == a.of_difference(c) == pytest.approx(np.sqrt((9 + 16) / 2))
    assert a.of_difference(a.model_copy(update={"parts": [4.0, 6.0]})) == pytest.approx(5)


def test_a_board_decides_by_the_interval_that_compare_shows():
    rng = np.random.default_rng(1)
    subsets, tau, losses = world(rng, alike=0.5)
    scores = [tau + noise * rng.normal(size=tau.shape) for noise in np.linspace(0, 6, 12)]
    results = [lds_result(each, subsets, losses) for each in scores]
    expected = [sum(result_difference(other, own)[0] > 0 for other in results) for own in results]
    assert better_runs(results).tolist() == expected
    assert len(set(expected)) > 3


def group_values(rng, seeds, noise, groups=6, queries=60):
    truth = rng.normal(size=(1 + groups, 1, queries))
    own, shared = rng.normal(size=(1 + groups, seeds, queries)), rng.normal(size=(1 + groups, seeds, 1))
    return truth, truth + noise * (0.7 * own + 0.7 * shared)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_error_of_a_group_metric_is_about_that_of_other_trainings(measure):
    rng = np.random.default_rng(2)
    errors, means = [], []
    truth, _ = group_values(rng, 3, 0.6)
    predicted = rise(truth)[0] + rng.normal(size=(60, 6))
    for _ in range(40):
        trained = truth + 0.6 * (0.7 * rng.normal(size=(7, 3, 60)) + 0.7 * rng.normal(size=(7, 3, 1)))
        errors.append(np.linalg.norm(model_parts(MEASURES[measure], predicted, trained)))
        means.append(MEASURES[measure](predicted, rise(trained).mean(axis=0)).mean())
    assert 0.7 < np.mean(errors) / np.std(means, ddof=1) < 2.2


def test_group_runs_are_compared_over_models_too():
    rng = np.random.default_rng(3)
    truth, trained = group_values(rng, 2, 0.6)
    runs = [rise(truth)[0] + noise * rng.normal(size=(60, 6)) for noise in (0.5, 2.0)]
    results = []
    for predicted in runs:
        parts = model_parts(top_group, predicted, trained)
        values = top_group(predicted, rise(trained).mean(axis=0))
        noise = TrainingNoise(error=float(np.linalg.norm(parts)), freedom=7, parts=parts.tolist())
        results.append(
            MetricResult(
                metric="group-top1",
                k=None,
                value=float(values.mean()),
                low=0.0,
                high=1.0,
                ceiling=None,
                random=None,
                per_query=values.tolist(),
                higher_is_better=True,
                noise=noise,
            )
        )
    with_models = np.diff(result_difference(*results))
    queries_alone = np.diff(result_difference(*(each.model_copy(update={"noise": None}) for each in results)))
    assert with_models > queries_alone


def test_many_seeds_are_drawn_and_not_all_combined():
    effects = rise(group_values(np.random.default_rng(4), 40, 0.6)[1])
    low, high = interval(top_group, effects.mean(axis=0), effects, 0)  # 40 of 40 can be drawn in 10^23 ways
    assert 0.5 < low <= high <= 1


def test_one_training_seed_gives_a_group_metric_no_interval():
    effects = rise(group_values(np.random.default_rng(5), 1, 0.6)[1])
    assert interval(top_group, effects[0], effects, 0) is None


def test_runs_that_differ_by_rounding_alone_are_not_told_apart():
    rng = np.random.default_rng(0)
    values, parts = rng.normal(0.6, 0.1, 20), rng.normal(0, 0.01, 8)
    shifts = (0.0, 4e-16, 1e-15, -4e-16)  # equal options, on other machines or in another order of sums
    runs = [retrained(list(values + shift), list(parts), ceiling=0.9) for shift in shifts]
    assert better_runs(runs).tolist() == [0, 0, 0, 0]
    apart = [retrained(list(values), list(parts), 0.9), retrained(list(values + 1e-6), list(parts), 0.9)]
    assert better_runs(apart).tolist() == [1, 0]  # a difference, however small, that all models and queries share


def retrained(values, parts, ceiling):
    """A result of retrained models with these values of queries and parts of their noise."""
    noise = TrainingNoise(error=float(np.linalg.norm(parts)), freedom=len(parts) - 1, parts=parts)
    return MetricResult(
        metric="lds",
        k=None,
        value=float(np.mean(values)),
        low=0.0,
        high=1.0,
        ceiling=ceiling,
        random=0.0,
        per_query=values,
        higher_is_better=True,
        noise=noise,
    )
