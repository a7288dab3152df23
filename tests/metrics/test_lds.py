"""The linear datamodeling score (methods-spec A2, T12 and worked example I.8)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attrbench.errors import AttrbenchError
from attrbench.metrics.lds import linear_datamodeling_score

N, M, J = 40, 3, 24


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
    assert linear_datamodeling_score(tau, subsets, losses) == pytest.approx([1])
    assert linear_datamodeling_score(tau, subsets, losses[:, ::-1]) == pytest.approx([-1])


@given(st.integers(0, 1000), st.floats(-50, 50))
@settings(max_examples=25, deadline=None)
def test_true_coefficients_score_one_whatever_is_added_to_them_and_their_opposites_minus_one(seed, shift):
    tau, subsets, losses = linear_world(seed)
    np.testing.assert_allclose(linear_datamodeling_score(tau + shift, subsets, losses), 1)
    np.testing.assert_allclose(linear_datamodeling_score(-tau, subsets, losses), -1)


def test_only_the_order_of_the_losses_matters():
    tau, subsets, losses = linear_world(0)
    rough = tau + np.random.default_rng(1).normal(size=tau.shape)
    score = linear_datamodeling_score(rough, subsets, losses)
    assert ((score > -1) & (score < 1)).all()
    np.testing.assert_allclose(linear_datamodeling_score(rough, subsets, np.exp(losses / 9) + 4), score)


def test_unrelated_scores_are_about_zero():
    tau, subsets, losses = linear_world(0)
    draws = [np.random.default_rng(s).normal(size=tau.shape) for s in range(200)]
    found = np.array([linear_datamodeling_score(draw, subsets, losses) for draw in draws])
    assert abs(found.mean()) < 4 / np.sqrt(found.size * (J - 1))


def test_constant_predictions_score_zero():
    _, subsets, losses = linear_world(0)
    np.testing.assert_array_equal(linear_datamodeling_score(np.ones((M, N)), subsets, losses), 0)


@pytest.mark.parametrize("which", ["scores", "losses"])
def test_what_is_not_finite_is_named(which):
    tau, subsets, losses = linear_world(0)
    (tau if which == "scores" else losses)[1, 3] = np.nan
    with pytest.raises(AttrbenchError, match=f"{which} of query 1"):
        linear_datamodeling_score(tau, subsets, losses)


def test_one_subset_is_too_few():
    tau, subsets, losses = linear_world(0)
    with pytest.raises(AttrbenchError, match="at least two subsets"):
        linear_datamodeling_score(tau, subsets[:1], losses[:, :1])
