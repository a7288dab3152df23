"""DAS against dense formulas (arXiv 2410.18639)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attrbench.features.gradient_rows import GradientRows
from attrbench.features.outputs import Outputs
from attrbench_methods.kernel.das import DAS, DASOptions
from attrbench_methods.kernel.ridge import RidgeKernel, Spectrum
from attrbench_methods.kernel.trak import TRAK, RidgeOptions
from tests.methods.in_memory import InMemory, context, raw_rows

N, M, K, STEPS = 30, 7, 12, 4


def losses(seed=2):
    return np.random.default_rng(seed).exponential(size=(N, STEPS)).astype("f4")


def scores(train, asked, outputs=None, **options):
    method = DAS(DASOptions(**options))
    others = {} if outputs is None else {"outputs": outputs}
    scorer = method.fit(InMemory(train).train(method, **others), context())
    return scorer.scores(InMemory(asked).query(method)).astype("f8")


def absolute(damping):
    return {"damping": damping, "damping_mode": "absolute"}


def kernel(train, lam):
    return np.linalg.inv(train.T @ train + lam * np.eye(train.shape[1]))


def leverages(train, lam):
    return np.diag(train @ kernel(train, lam) @ train.T)


def residuals(outputs):
    """Mean over the timesteps of the root of the loss over its norm."""
    return np.array([np.mean(np.sqrt(row) / np.linalg.norm(np.sqrt(row))) for row in outputs.astype("f8")])


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("leverage", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_scores_are_the_formula(squared, leverage, residual):
    train, asked, lam = raw_rows(N, 0), raw_rows(M, 1), 3.0
    expected = asked @ kernel(train, lam) @ train.T
    if residual:
        expected = expected * residuals(losses())
    if leverage:
        expected = expected / (1 - leverages(train, lam))
    if squared:
        expected = expected**2
    options = {"squared": squared, "leverage": leverage, "residual": residual, **absolute(lam)}
    assert_close(scores(train, asked, losses(), **options), expected)


def test_without_all_three_it_is_the_ridge_kernel():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    method = TRAK(RidgeOptions())
    trak = method.fit(InMemory(train).train(method), context()).scores(InMemory(asked).query(method))
    assert_close(scores(train, asked, losses(), squared=False, leverage=False, residual=False), trak)


def test_squares_are_never_negative_and_forget_the_sign():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    plain, squared = (scores(train, asked, losses(), squared=value) for value in (False, True))
    assert plain.min() < 0 <= squared.min()
    assert_close(squared, plain**2)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 1000), st.floats(1e-3, 1e3))
@settings(max_examples=50, deadline=None)
def test_leverages_lie_between_0_and_1_and_add_up_to_the_effective_dimension(n, k, seed, lam):
    train = np.random.default_rng(seed).normal(size=(n, k))
    found = RidgeKernel(Spectrum.of(train @ train.T), lam, relative=False).leverages()
    np.testing.assert_allclose(found, leverages(train, lam), atol=1e-9)
    assert found.min() >= 0
    assert found.max() < 1
    values = np.linalg.eigvalsh(train.T @ train).clip(0)
    assert found.sum() == pytest.approx((values / (values + lam)).sum(), abs=1e-9)


@given(st.integers(2, 15), st.integers(1, 15), st.integers(0, 1000), st.floats(1e-2, 1e2))
@settings(max_examples=30, deadline=None)
def test_residual_over_one_less_leverage_is_the_residual_without_the_item(n, k, seed, lam):
    """Ridge regression's leave-one-out formula, on which the score rests."""
    rng = np.random.default_rng(seed)
    train, targets = rng.normal(size=(n, k)), rng.normal(size=n)
    h = RidgeKernel(Spectrum.of(train @ train.T), lam, relative=False).leverages()
    residual = targets - train @ kernel(train, lam) @ train.T @ targets
    for i in range(n):
        others = np.delete(np.arange(n), i)
        beta = kernel(train[others], lam) @ train[others].T @ targets[others]
        assert residual[i] / (1 - h[i]) == pytest.approx(targets[i] - train[i] @ beta, rel=1e-6, abs=1e-9)


def test_the_score_times_a_residual_is_how_far_the_output_moves_without_the_item():
    train, asked, lam = raw_rows(N, 0), raw_rows(M, 1), 3.0
    targets = np.random.default_rng(3).normal(size=N)
    beta = kernel(train, lam) @ train.T @ targets
    moved = np.empty((M, N))
    for i in range(N):
        others = np.delete(np.arange(N), i)
        without = kernel(train[others], lam) @ train[others].T @ targets[others]
        moved[:, i] = asked @ (beta - without)
    found = scores(train, asked, squared=False, residual=False, **absolute(lam)) * (targets - train @ beta)
    assert_close(found, moved)


def test_residuals_see_how_losses_are_spread_over_timesteps_and_not_their_size():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    one = scores(train, asked, losses())
    assert_close(scores(train, asked, losses() * np.linspace(0.1, 10, N, dtype="f4")[:, None]), one)
    even = np.ones((N, STEPS), "f4")
    uneven = even.copy()
    uneven[3] = [1, 0, 0, 0]
    ratio = scores(train, asked, uneven, squared=False) / scores(train, asked, even, squared=False)
    np.testing.assert_allclose(ratio[:, 3], 0.5, rtol=1e-5)  # 1/4 of one, and 1/4 of four times 1/2
    np.testing.assert_allclose(np.delete(ratio, 3, axis=1), 1, rtol=1e-5)


def test_items_without_a_loss_score_zero_and_spoil_nothing():
    train, asked, outputs = raw_rows(N, 0), raw_rows(M, 1), losses()
    whole = scores(train, asked, outputs)
    outputs[5] = 0
    found = scores(train, asked, outputs)
    assert not found[:, 5].any()
    assert_close(np.delete(found, 5, axis=1), np.delete(whole, 5, axis=1))


def test_leverages_of_one_leave_the_scores_finite_and_their_signs_alone():
    """More directions than items, and next to no damping: each item explains itself, to rounding."""
    train, asked = raw_rows(8, 0), raw_rows(M, 1)
    outputs = losses()[:8]
    options = {"squared": False, **absolute(1e-30)}
    found = scores(train, asked, outputs, **options)
    assert np.isfinite(found).all()
    plain = scores(train, asked, outputs, leverage=False, **options)
    np.testing.assert_array_equal(np.sign(found), np.sign(plain))


def test_features_are_those_of_the_outputs_mean_with_the_losses_of_traks_passes():
    request = DAS(DASOptions()).features()
    rows, losses = request.train
    assert isinstance(rows, GradientRows)
    assert request.query == (rows,)
    assert (rows.source.output, rows.timesteps) == ("mean", "mean-normalized")
    assert isinstance(losses, Outputs)
    assert losses.source == TRAK(RidgeOptions()).features().train[0].source
    without = DAS(DASOptions(residual=False)).features()
    assert without.train == without.query == (rows,)


def test_storage_counts_the_kernels_and_a_factor_an_item():
    rows = InMemory(raw_rows(N, 0))
    methods = (DAS(DASOptions()), TRAK(RidgeOptions()))
    das, trak = (method.fit(rows.train(method, outputs=losses()), context()) for method in methods)
    assert das.size().rows == trak.size().rows
    assert das.size().shared == trak.size().shared + 8 * N
    assert das.facts() == trak.facts()
