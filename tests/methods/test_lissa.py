"""LiSSA in closed form is its iterated recursion (Agarwal et al. 2017, arXiv 1602.03943; Koh, Liang, 1703.04730)."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from attrbench.errors import AttrbenchError
from attrbench_methods.second_order.lissa import LiSSAOptions, ReleasedLiSSA, ReleasedLiSSAOptions, Richardson
from tests.methods.in_memory import InMemory, context, raw_rows
from tests.methods.lissa_recursion import (
    BLOCKS,
    EXACT,
    K,
    M,
    N,
    absolute,
    assert_close,
    dense,
    fisher,
    fitted,
    richardson,
    scores,
)


def released(train, asked, **options):
    method = ReleasedLiSSA(ReleasedLiSSAOptions(**options))
    scorer = method.fit(InMemory(train).train(method), context())
    return scorer.scores(InMemory(asked).query(method)).astype("f8")


def best_step(matrix, damping):
    return 1 / (np.linalg.eigvalsh(matrix).max() + damping)


# --- the recursion


@pytest.mark.parametrize("iterations", [1, 2, 7, 100])
@pytest.mark.parametrize("shape", [(N, K), (5, 30)], ids=["n > d", "n < d"])
def test_closed_form_is_the_iterated_recursion(shape, iterations):
    train, asked = (raw_rows(count, seed, shape[1]) for seed, count in enumerate((shape[0], M)))
    found = scores(train, asked, iterations=iterations, tolerance=EXACT, **absolute(0.3))
    u = richardson(asked, fisher(train), 0.3, best_step(fisher(train), 0.3), iterations)
    assert_close(found, u @ train.T)


@given(st.integers(0, 1000), st.integers(1, 40), st.floats(0.01, 10), st.floats(0.05, 1.9))
@settings(max_examples=50, deadline=None)
def test_filter_is_what_the_recursion_does_to_each_eigenvector(seed, iterations, damping, share):
    """Any step below the bound 2 / (top + lam) will do."""
    spectrum = np.random.default_rng(seed).exponential(size=9)
    step = share / (spectrum.max() + damping)
    expected = richardson(np.ones((1, 9)), np.diag(spectrum), damping, step, iterations)[0]
    found = Richardson.plan(float(spectrum.max()), damping, step, iterations).filter(spectrum)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_worked_example():
    """I.6: H = 2, lam = 1, g = 3, eta = .25 gives .75, .9375, .984375 and then 1."""
    found = [float(3 * Richardson.plan(2.0, 1.0, 0.25, j).filter(np.array([2.0]))[0]) for j in (1, 2, 3, 200)]
    assert found == pytest.approx([0.75, 0.9375, 0.984375, 1])


@pytest.mark.parametrize("layers", [None, BLOCKS], ids=["single", "blocks"])
def test_many_iterations_solve_each_block(layers):
    """Of the empirical Fisher matrix this is what DataInf's code calls the accurate inverse."""
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    found = scores(train, asked, layers, iterations=100_000, tolerance=1e-10)
    expected = 0
    for part in (layers or {"": slice(0, K)}).values():
        g = train[:, part]
        expected = expected + dense(asked[:, part], fisher(g), 0.1 * (g**2).mean()) @ g.T
    assert_close(found, expected)


def test_the_recursion_of_koh_and_liang_is_the_same_with_another_step_and_damping():
    """u <- g + (1 - damp) u - (H u) / scale, output u / scale: eta = 1 / scale and lam = damp * scale."""
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    scale, damp, iterations = 1.5 * np.linalg.eigvalsh(fisher(train)).max(), 0.01, 25
    u = asked
    for _ in range(iterations - 1):
        u = asked + (1 - damp) * u - u @ fisher(train) / scale
    options = {"step": 1 / scale, "iterations": iterations, "tolerance": EXACT}
    assert_close(scores(train, asked, **absolute(damp * scale), **options), (u / scale) @ train.T)


def test_no_curvature_leaves_the_gradient_over_the_damping():
    iteration = Richardson.plan(0.0, 0.25, None, 7)
    np.testing.assert_allclose(iteration.filter(np.zeros(3)), 4)
    assert iteration.residual(np.zeros(3), np.ones(3)) == 0


def test_large_damping_leaves_the_inner_product():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    assert_close(scores(train, asked, BLOCKS, **absolute(1e9)) * 1e9, asked @ train.T)


# --- residual


@pytest.mark.parametrize("iterations", [1, 3, 20, 200])
@pytest.mark.parametrize("shape", [(N, K), (5, 30)], ids=["n > d", "n < d"])
def test_residual_in_the_facts_is_the_measured_one(shape, iterations):
    train = raw_rows(shape[0], 0, shape[1])
    facts = fitted(train, iterations=iterations, tolerance=EXACT, **absolute(0.3)).facts()
    matrix, step = fisher(train), best_step(fisher(train), 0.3)
    u = richardson(train, matrix, 0.3, step, iterations)
    measured = np.linalg.norm(train - u @ matrix - 0.3 * u) / np.linalg.norm(train)
    assert facts["residual"] == pytest.approx(measured, rel=1e-4, abs=1e-7)
    assert facts["top_eigenvalue"] == pytest.approx(np.linalg.eigvalsh(matrix).max(), rel=1e-5)
    assert (facts["damping"], facts["step"], facts["iterations"]) == pytest.approx((0.3, step, iterations), rel=1e-5)


@given(st.integers(0, 1000), st.floats(0.01, 1.99))
@settings(max_examples=50, deadline=None)
def test_residual_falls_with_every_step_under_the_bound(seed, share):
    rng = np.random.default_rng(seed)
    spectrum, weights, damping = rng.exponential(size=6), rng.exponential(size=6) + 0.1, 0.2
    step = share / (spectrum.max() + damping)
    found = [Richardson.plan(spectrum.max(), damping, step, j).residual(spectrum, weights) for j in range(1, 30)]
    assert (np.diff(found) < 0).all()


@pytest.mark.parametrize("tolerance", [0.5, 0.01, 1e-6])
def test_it_stops_at_the_first_step_within_the_tolerance(tolerance):
    train = raw_rows(N, 0)
    taken = fitted(train, tolerance=tolerance, iterations=10_000).facts()
    assert taken["residual"] <= tolerance
    before = fitted(train, tolerance=EXACT, iterations=int(taken["iterations"]) - 1).facts()
    assert before["residual"] > tolerance
    few = fitted(train, tolerance=1e-12, iterations=3).facts()
    assert (few["iterations"], few["residual"] > 1e-12) == (3, True)


def test_facts_are_those_of_the_block_with_the_largest_residual():
    train = raw_rows(N, 0)
    options = {"iterations": 5, "tolerance": EXACT}
    found = fitted(train, BLOCKS, **options).facts()
    each = [fitted(train[:, part], **options).facts() for part in BLOCKS.values()]
    residuals = [facts["residual"] for facts in each]
    assert len(set(residuals)) == 3
    for name, value in each[int(np.argmax(residuals))].items():
        assert found[name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize("iterations", [20, 500])
@pytest.mark.parametrize("layers", [None, BLOCKS], ids=["single", "blocks"])
def test_step_beyond_the_bound_is_an_error_that_says_what_to_do(layers, iterations):
    train = raw_rows(N, 0)
    step = 4 / (np.linalg.eigvalsh(fisher(train)).max() + 0.3)
    with pytest.raises(AttrbenchError, match=r"diverges.*step="):
        fitted(train, layers, step=step, iterations=iterations, **absolute(0.3))


def test_step_just_beyond_the_bound_tells_of_itself_by_a_residual_above_one():
    train = raw_rows(N, 0)
    step = 2.05 / (np.linalg.eigvalsh(fisher(train)).max() + 0.3)
    facts = fitted(train, step=step, iterations=50, **absolute(0.3)).facts()
    assert facts["iterations"] == 50
    assert 1 < facts["residual"] < 1e3


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_step_beyond_the_bound_is_an_error_where_items_are_sampled_too():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    with suppress(AttrbenchError):
        assert not np.isnan(scores(train, asked, step=1.0, blocks="single", batch=3)).any()


# --- the recursion of DataInf's released code


def released_recursion(asked, matrix, damping, step, iterations):
    u = asked
    for _ in range(iterations):
        u = asked + u - step * (u @ matrix - damping * u)
    return u


@pytest.mark.parametrize("step", [0.05, 1.0])
@pytest.mark.parametrize("iterations", [1, 10])
def test_released_variant_is_the_released_recursion(iterations, step):
    train, asked = raw_rows(N, 0) / 3, raw_rows(M, 1)
    damping = 0.1 * (train**2).mean()
    expected = released_recursion(asked, fisher(train), damping, step, iterations) @ train.T
    assert_close(released(train, asked, iterations=iterations, step=step), expected)


@pytest.mark.parametrize("iterations", [1, 2, 10, 50])
def test_worked_example_of_the_wrong_sign(iterations):
    """I.6: H = 2, lam = 1, g = 3 stays at 3 for ever, (H - lam)^-1 g, where the truth is 1."""
    train, asked = np.array([[np.sqrt(2)]]), np.array([[3.0]])
    found = released(train, asked, iterations=iterations, **absolute(1))
    np.testing.assert_allclose(found, [[3 * np.sqrt(2)]], rtol=1e-6)


def test_wrong_sign_converges_to_the_wrong_solution():
    train, asked = np.linalg.qr(raw_rows(N, 0))[0] * np.sqrt(N), raw_rows(M, 1)
    lam = 0.5  # all eigenvalues are 1: the fixed points are 1 / (1 - lam) and 1 / (1 + lam)
    found = released(train, asked, iterations=200, **absolute(lam))
    assert_close(found, dense(asked, fisher(train), -lam) @ train.T)
    truth = dense(asked, fisher(train), lam) @ train.T
    assert_close(found, truth * (1 + lam) / (1 - lam))
    assert_close(scores(train, asked, iterations=200, tolerance=1e-12, **absolute(lam)), truth)


def test_wrong_sign_diverges_where_an_eigenvalue_exceeds_two():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    assert np.linalg.eigvalsh(fisher(train)).max() > 2.5
    ten, twenty = (np.abs(released(train, asked, iterations=j, **absolute(0.1))).max() for j in (10, 20))
    truth = np.abs(scores(train, asked, iterations=10_000, tolerance=1e-9, **absolute(0.1))).max()
    assert ten > 1e3 * truth
    assert twenty > 1e3 * ten


def test_wrong_sign_beyond_what_a_score_can_be_is_an_error():
    with pytest.raises(AttrbenchError, match="released LiSSA diverges"):
        released(raw_rows(N, 0), raw_rows(M, 1), iterations=100)


# --- options


@pytest.mark.parametrize(
    "options",
    [
        {"hessian": "ggn", "concatenate": True},
        {"hessian": "hessian", "concatenate": True},
        {"hessian": "ggn", "blocks": "single"},
        {"batch": 3},
        {"batch": 3, "blocks": "module"},
        {"damping": 0},
        {"step": 0},
        {"tolerance": 1},
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_refused(options):
    with pytest.raises(ValidationError):
        LiSSAOptions(**options)
