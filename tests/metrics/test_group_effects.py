"""Metrics of group scores against the effects of leaving groups out, on cases whose values are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score

from attrbench.metrics.group_effects import (
    MEASURES,
    discounted_gain,
    expected_by_chance,
    filled_by_first,
    group_scores,
    interval,
    seed_agreement,
    share_of_top_group,
    shares_of_top,
    top_group,
)
from attrbench.metrics.lds import rank_correlation

GROUPS = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1]], bool)


def test_scores_of_groups_are_sums_means_and_maxima_of_their_items():
    scores = np.array([[1.0, 3, -2, 0, 5]])
    assert group_scores(scores, GROUPS, "sum").tolist() == [[4, -2, 5]]
    assert group_scores(scores, GROUPS, "mean").tolist() == [[2, -2, 2.5]]
    assert group_scores(scores, GROUPS, "max").tolist() == [[3, -2, 5]]


def test_the_top_group_counts_where_it_has_the_largest_effect_and_ties_share_the_point():
    effects = np.array([[0.1, 0.5, -0.2]] * 3)
    predicted = np.array([[0, 2, 1.0], [3, 2, 1], [2, 2, 1]])
    assert top_group(predicted, effects).tolist() == [1, 0, 0.5]


def test_the_precision_is_the_share_of_the_first_items_that_are_of_the_group_of_the_largest_effect():
    ranked = np.array([[0, 3, 1, 4], [4, 2, -1, -1], [2, 0, 1, 3]])
    shares = shares_of_top(ranked, GROUPS, 3)
    np.testing.assert_allclose(shares, [[2 / 3, 0, 1 / 3], [0, 1 / 3, 1 / 3], [2 / 3, 1 / 3, 0]])
    effects = np.array([[0.5, 0.1, 0.2], [0.1, 0.3, 0.3], [-1, -2, -0.5]])
    np.testing.assert_allclose(share_of_top_group(shares, effects), [2 / 3, 2 / 3, 0])


def test_a_top_that_one_group_fills_has_its_precision_where_it_has_the_largest_effect():
    effects, most = np.array([[0.5, 0.1, 0.2]] * 3), np.array([1.0, 0.25, 0.5])
    scores = np.array([[3.0, 1, 2], [1, 3, 2], [3, 3, 1]])
    np.testing.assert_allclose(filled_by_first(scores, effects, most), [1, 0, 0.5])
    assert filled_by_first(scores[:1], effects[:1, ::-1], most)[0] == 0


def test_random_rankings_have_the_precision_that_the_size_of_the_group_gives():
    rng = np.random.default_rng(0)
    effects = np.array([[0.1, 0.5, 0.2], [0.9, 0.5, 0.2]])
    drawn = [np.stack([rng.permutation(5) for _ in effects]) for _ in range(4000)]
    found = np.mean([share_of_top_group(shares_of_top(each, GROUPS, 2), effects) for each in drawn], axis=0)
    np.testing.assert_allclose(found, [1 / 5, 2 / 5], atol=0.02)


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_the_discounted_gain_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    effects, predicted = rng.normal(size=(1, 6)), rng.integers(0, 4, (1, 6)).astype(float)
    effects[0, 0] = abs(effects[0, 0]) + 0.1
    expected = ndcg_score(np.maximum(effects, 0), predicted, k=3)
    assert discounted_gain(predicted, effects)[0] == pytest.approx(expected)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_true_effects_as_scores_reach_one_in_every_measure_and_shifts_change_nothing(seed):
    effects = np.random.default_rng(seed).normal(size=(4, 5)) + np.arange(5)
    for measure in MEASURES.values():
        np.testing.assert_allclose(measure(effects, effects), 1)
        np.testing.assert_allclose(measure(2 * effects + 7, effects), 1)


def test_a_query_on_which_no_group_has_an_effect_gains_nothing():
    assert discounted_gain(np.array([[1.0, 2]]), np.array([[-1.0, 0]])).tolist() == [0]


@pytest.mark.parametrize("measure", list(MEASURES))
def test_the_expectation_by_chance_is_the_mean_over_random_scores(measure):
    rng = np.random.default_rng(0)
    effects = rng.normal(size=(3, 6))
    drawn = [MEASURES[measure](rng.normal(size=(3, 6)), effects) for _ in range(4000)]
    np.testing.assert_allclose(np.mean(drawn, axis=0), expected_by_chance(MEASURES[measure], effects), atol=0.03)


def test_seeds_agree_wholly_without_noise_and_by_chance_with_nothing_else():
    rng = np.random.default_rng(1)
    effects = rng.normal(size=(1, 200, 5))
    assert seed_agreement(top_group, effects) is None
    assert seed_agreement(top_group, effects.repeat(3, axis=0)) == 1
    assert seed_agreement(top_group, rng.normal(size=(3, 200, 5))) == pytest.approx(0.2, abs=0.05)
    a, b = effects[0], rng.normal(size=(200, 5))
    both = np.mean([spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)])
    assert seed_agreement(rank_correlation, np.stack([a, b])) == pytest.approx(both)


def test_the_interval_covers_the_mean_and_is_wider_where_seeds_disagree():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(1, 60, 5))
    calm, noisy = truth.repeat(3, axis=0), truth + rng.normal(size=(3, 60, 5))
    low, high = interval(top_group, truth[0], calm, 0)
    assert (low, high) == (1, 1)
    low, high = interval(top_group, truth[0], noisy, 0)
    assert low < top_group(truth[0], noisy.mean(axis=0)).mean() < high and high - low > 0.1
    assert interval(top_group, truth[0][:1], noisy[:, :1], 0) is None
