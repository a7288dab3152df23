"""The linear datamodeling score, its ceiling and its interval, on worlds in which they are known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from attrbench.errors import AttrbenchError
from attrbench.ground_truth.subsets import draw_subset, membership
from attrbench.metrics.lds import (
    balanced_losses,
    lead_ceiling,
    lead_over_others,
    mean_score,
    noise_ceiling,
    predictions,
    rank_correlation,
    top_counts,
)

N, M, J = 40, 3, 24


def scores_of(scores, subsets, losses):
    """Each query's linear datamodeling score, [m]."""
    return mean_score(predictions(scores, subsets), losses).per_query


def linear_world(seed):
    """True coefficients, subsets of half the items, and the losses that a linear world gives."""
    rng = np.random.default_rng(seed)
    tau = rng.normal(size=(M, N))
    subsets = np.zeros((J, N), bool)
    for row in subsets:
        row[rng.permutation(N)[: N // 2]] = True
    return tau, subsets, -(tau @ subsets.T)


def test_worked_example():
    subsets = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]], bool)
    tau, losses = np.array([[4.0, 2, 1, 0]]), np.array([[-6.0, -5, -2, -1]])
    assert scores_of(tau, subsets, losses) == pytest.approx([1])
    assert scores_of(tau, subsets, losses[:, ::-1]) == pytest.approx([-1])


@given(st.integers(0, 1000), st.floats(-50, 50))
@settings(max_examples=25, deadline=None)
def test_true_coefficients_score_one_whatever_is_added_to_them_and_their_opposites_minus_one(seed, shift):
    tau, subsets, losses = linear_world(seed)
    np.testing.assert_allclose(scores_of(tau + shift, subsets, losses), 1)
    np.testing.assert_allclose(scores_of(-tau, subsets, losses), -1)


def test_only_the_order_of_the_losses_matters():
    tau, subsets, losses = linear_world(0)
    rough = tau + np.random.default_rng(1).normal(size=tau.shape)
    score = scores_of(rough, subsets, losses)
    assert ((score > -1) & (score < 1)).all()
    np.testing.assert_allclose(scores_of(rough, subsets, np.exp(losses / 9) + 4), score)


def test_unrelated_scores_are_about_zero():
    tau, subsets, losses = linear_world(0)
    draws = [np.random.default_rng(s).normal(size=tau.shape) for s in range(200)]
    found = np.array([scores_of(draw, subsets, losses) for draw in draws])
    assert abs(found.mean()) < 4 / np.sqrt(found.size * (J - 1))


def test_constant_predictions_score_zero():
    _, subsets, losses = linear_world(0)
    np.testing.assert_array_equal(scores_of(np.ones((M, N)), subsets, losses), 0)


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_balanced_losses_do_not_depend_on_the_units_and_offsets_of_timesteps(seed):
    rng = np.random.default_rng(seed)
    losses = rng.normal(size=(8, 2, 3, 5))
    units, offsets = np.exp(rng.normal(0, 3, (3, 5))), rng.normal(0, 3, (3, 5))
    np.testing.assert_allclose(balanced_losses(losses * units + offsets), balanced_losses(losses), atol=1e-6)
    one = balanced_losses(losses[..., :1])
    np.testing.assert_allclose(one.std(axis=(0, 1)), 1)  # a single timestep stays as it is, but for its units
    np.testing.assert_allclose(one, (losses - losses.mean((0, 1)))[..., 0] / losses.std((0, 1))[..., 0])


def test_a_timestep_that_no_model_changes_counts_as_nothing_and_a_noisy_one_no_more_than_others():
    rng = np.random.default_rng(0)
    members, tau = rng.random((40, 60)) < 0.5, rng.normal(size=(10, 60))
    signal = -(tau @ members.T).T[:, None, :, None].repeat(2, axis=1).repeat(4, axis=3)
    losses = np.concatenate([signal, np.full((40, 2, 10, 1), 7.0)], axis=3)
    assert mean_score(predictions(tau, members), balanced_losses(losses).mean(axis=1).T).value == pytest.approx(1)
    losses[..., 4] = 1000 * rng.normal(size=(40, 2, 10))
    plain, balanced = losses.mean(axis=3), balanced_losses(losses)
    assert noise_ceiling(plain).corrected < 0.5 < 0.9 < noise_ceiling(balanced).corrected
    score = mean_score(predictions(tau, members), balanced.mean(axis=1).T).value
    assert mean_score(predictions(tau, members), plain.mean(axis=1).T).value < 0.4 < 0.9 < score


@given(st.integers(0, 10**6), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_the_top_predicts_as_scores_do_that_are_1_for_its_items_and_0_for_all_others(seed, k):
    rng = np.random.default_rng(seed)
    ranked = np.stack([rng.permutation(20)[:k] for _ in range(5)])
    subsets = rng.random((6, 20)) < 0.5
    indicator = np.zeros((5, 20))
    np.put_along_axis(indicator, ranked, 1.0, axis=1)
    np.testing.assert_array_equal(top_counts(ranked, subsets), predictions(indicator, subsets))
    shuffled = np.take_along_axis(ranked, rng.permuted(np.tile(np.arange(k), (5, 1)), axis=1), axis=1)
    np.testing.assert_array_equal(top_counts(shuffled, subsets), top_counts(ranked, subsets))


def test_items_that_a_search_did_not_find_are_in_no_subset():
    subsets = np.array([[True, False, True], [False, True, True]])
    np.testing.assert_array_equal(top_counts(np.array([[0, 2, -1], [-1, -1, -1]]), subsets), [[2, 1], [0, 0]])
    with pytest.raises(AttrbenchError, match="at least two subsets"):
        top_counts(np.array([[0]]), subsets[:1])


@pytest.mark.parametrize("which", ["scores", "losses"])
def test_what_is_not_finite_is_named(which):
    tau, subsets, losses = linear_world(0)
    (tau if which == "scores" else losses)[1, 3] = np.nan
    with pytest.raises(AttrbenchError, match=f"{which} of query 1"):
        scores_of(tau, subsets, losses)


def test_one_subset_is_too_few():
    tau, subsets, losses = linear_world(0)
    with pytest.raises(AttrbenchError, match="at least two subsets"):
        scores_of(tau, subsets[:1], losses[:, :1])


def noisy_world(seed, subsets=64, seeds=2, queries=30, noise=1.0, shared=0.0):
    """Coefficients, subsets, and [J, S, m] losses: a linear world, with noise of training of so many spreads.

    Args:
        shared: spread of what a subset does to all queries alike, in spreads of the linear part.
    """
    rng = np.random.default_rng(seed)
    tau = rng.normal(size=(queries, N))
    members = membership([draw_subset(N, number, seed) for number in range(subsets)], N)
    signal = tau @ members.T
    spread = math.sqrt(N) / 2  # of a sum over half of N items drawn without replacement, coefficients of spread 1
    of_subset = shared * spread * rng.normal(size=(subsets, 1, 1))
    losses = -signal.T[:, None] + of_subset + noise * spread * rng.normal(size=(subsets, seeds, queries))
    return tau, members, losses


def spearman(pearson):
    """Spearman's correlation of two normal variables."""
    return 6 / math.pi * math.asin(pearson / 2)


@pytest.mark.parametrize(("noise", "seeds"), [(0.5, 2), (1.0, 2), (1.0, 4), (2.0, 3)])
def test_the_true_coefficients_score_what_theory_says_and_that_is_the_ceiling(noise, seeds):
    tau, members, losses = noisy_world(0, subsets=128, seeds=seeds, queries=60, noise=noise)
    theory = spearman(1 / math.sqrt(1 + noise**2 / seeds))
    score = scores_of(tau, members, losses.mean(axis=1).T).mean()
    ceiling = noise_ceiling(losses)
    assert score == pytest.approx(theory, abs=0.03)
    assert ceiling.corrected == pytest.approx(theory, abs=0.03)
    assert ceiling.single == pytest.approx(spearman(1 / (1 + noise**2)), abs=0.03)
    assert ceiling.single < score  # one seed against another understates what can be reached


def test_one_training_seed_has_no_ceiling_and_pure_noise_one_near_0():
    assert noise_ceiling(noisy_world(0, seeds=1)[2]).corrected is None
    assert lead_ceiling(noisy_world(0, seeds=1)[2]) is None
    noise = np.random.default_rng(0).normal(size=(64, 3, 200))
    assert noise_ceiling(noise).corrected < 0.2
    opposite = np.stack([noise[:, 0], -noise[:, 0]], axis=1)
    assert noise_ceiling(opposite).corrected == 0 and lead_ceiling(opposite) == 0


def hits(draw, trials=60, measure=rank_correlation):
    """How often the interval of a mean score that is truly 0 holds 0, and one over queries alone."""
    both = alone = 0
    for trial in range(trials):
        scores, members, losses = draw(trial)
        found = mean_score(predictions(scores, members), losses, measure)
        both += found.low <= 0 <= found.high
        alone += abs(found.value) <= 1.96 * found.per_query.std(ddof=1) / math.sqrt(len(found.per_query))
    return both / trials, alone / trials


@pytest.mark.slow
@pytest.mark.parametrize("alike", [False, True])
def test_the_interval_of_random_scores_holds_0(alike):
    """Whether each query has its own scores, or all have the same and the subsets move all losses alike."""

    def draw(trial):
        _, members, losses = noisy_world(trial, subsets=28, shared=2.0 if alike else 0.0)
        rows = np.random.default_rng(trial + 1000).normal(size=(1 if alike else 30, N))
        return np.broadcast_to(rows, (30, N)), members, losses.mean(axis=1).T

    both, alone = hits(draw)
    assert both >= 0.9
    if alike:
        assert alone < 0.6  # over queries alone it is far too narrow


def test_what_scores_say_of_all_queries_alike_is_no_lead_over_others():
    tau, members, losses = noisy_world(0)
    alike = np.broadcast_to(tau.sum(axis=0), tau.shape)  # which items are good for the queries together
    effects = -losses.mean(axis=1).T
    assert rank_correlation(predictions(alike, members), effects).mean() > 0.1
    assert lead_over_others(predictions(alike, members), effects).mean() == pytest.approx(0)
    own = predictions(tau, members)
    np.testing.assert_array_less(lead_over_others(own, effects).mean(), rank_correlation(own, effects).mean() + 0.02)


@given(st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_the_lead_over_others_is_the_own_correlation_less_the_mean_of_the_others(seed):
    a, b = np.random.default_rng(seed).normal(size=(2, 4, 15))
    every = np.array([[spearmanr(x, y).statistic for y in b] for x in a])
    expected = [every[q, q] - np.delete(every[q], q).mean() for q in range(4)]
    assert lead_over_others(a, b) == pytest.approx(expected)


@pytest.mark.parametrize("common", [0.0, 1.0])
def test_the_lead_of_the_true_coefficients_is_its_ceiling(common):
    """Whether the queries' coefficients share a part."""
    rng = np.random.default_rng(5)
    tau = rng.normal(size=(60, N)) + common * rng.normal(size=N)
    members = membership([draw_subset(N, number, seed=5) for number in range(128)], N)
    signal = (tau @ members.T).T[:, None]
    losses = -signal + signal.std() * rng.normal(size=(128, 2, 60))
    ceiling = lead_ceiling(losses)
    found = mean_score(predictions(tau, members), losses.mean(axis=1).T, lead_over_others).value
    assert found == pytest.approx(ceiling, abs=0.03)
    assert (ceiling < 0.7 * noise_ceiling(losses).corrected) == bool(common)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 2.0])
def test_the_interval_of_a_lead_that_is_truly_0_holds_0(shared):
    """Whether the subsets move the losses of all queries alike; each query's scores share a part with all others'."""

    def draw(trial):
        _, members, losses = noisy_world(trial, subsets=28, shared=shared)
        rng = np.random.default_rng(trial + 1000)
        return rng.normal(size=N) + rng.normal(size=(30, N)), members, losses.mean(axis=1).T

    assert hits(draw, measure=lead_over_others)[0] >= 0.9


def test_permuted_ground_truth_scores_0_within_its_interval():
    def draw(trial):
        tau, members, losses = noisy_world(trial, subsets=28, noise=0.3)
        order = np.random.default_rng(trial).permutation(28)
        return tau, members, losses.mean(axis=1)[order].T

    assert hits(draw, trials=40)[0] >= 0.9


def test_the_interval_of_the_truth_excludes_0_and_holds_the_score_of_many_subsets():
    tau, members, losses = noisy_world(3, subsets=32)
    found = mean_score(predictions(tau, members), losses.mean(axis=1).T)
    assert 0 < found.low < found.value < found.high < 1
    assert found.low < spearman(1 / math.sqrt(1.5)) < found.high
    assert found.value == pytest.approx(scores_of(tau, members, losses.mean(axis=1).T).mean())
    assert found.freedom == 31 and 0 < found.subset_error < found.high - found.low


def test_too_few_subsets_or_queries_have_a_score_and_no_interval():
    tau, members, losses = noisy_world(0, subsets=3)
    found = mean_score(predictions(tau, members), losses.mean(axis=1).T)
    assert (found.low, found.high, found.subset_error) == (None, None, None) and found.value > 0
    tau, members, losses = noisy_world(0, queries=1)
    assert noise_ceiling(losses).corrected is not None and lead_ceiling(losses) is None
    assert mean_score(predictions(tau, members), losses.mean(axis=1).T).low is None


@given(st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_the_rank_correlation_is_scipys_ties_included(seed):

    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 6, size=(2, 4, 15)).astype(float)
    assert rank_correlation(a, b) == pytest.approx([spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)])
