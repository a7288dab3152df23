"""LiSSA (methods-spec 11.2, 11.6, T10 and worked example I.6)."""

from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from attrbench.errors import AttrbenchError
from attrbench.features.gradient_products import GradientProducts
from attrbench.features.views import TrainProducts
from attrbench_methods.second_order.lissa import (
    LiSSA,
    LiSSAOptions,
    ReleasedLiSSA,
    ReleasedLiSSAOptions,
    Richardson,
    SampledScorer,
    power_sum,
)
from attrbench_methods.second_order.network_lissa import mean_diagonal, solve, top_eigenvalue
from tests.methods.in_memory import (
    InMemory,
    Small,
    batch_gradients,
    context,
    dense_curvature,
    everything,
    products,
    query_features,
    raw_rows,
    seeded,
    small_samples,
    train_features,
)

N, M, K = 20, 6, 12
BLOCKS = {"a": slice(0, 5), "b": slice(5, 6), "c": slice(6, 12)}
EXACT = 1e-300  # a tolerance that is never met: all the iterations are taken


def fitted(train, layers=None, seed=0, **options):
    method = LiSSA(LiSSAOptions(**options))
    return method.fit(InMemory(train).train(method, layers), context(seed))


def asked_of(asked, **options):
    """Return what the scorer of LiSSA with these options gets of queries."""
    return InMemory(asked).query(LiSSA(LiSSAOptions(**options)))


def scores(train, asked, layers=None, seed=0, **options):
    return fitted(train, layers, seed, **options).scores(asked_of(asked, **options)).astype("f8")


def released(train, asked, **options):
    method = ReleasedLiSSA(ReleasedLiSSAOptions(**options))
    scorer = method.fit(InMemory(train).train(method), context())
    return scorer.scores(InMemory(asked).query(method)).astype("f8")


def absolute(damping):
    return {"damping": damping, "damping_mode": "absolute"}


def fisher(train):
    return train.T @ train / len(train)


def dense(asked, matrix, damping):
    """(H + lam I)^-1 g for each row."""
    return np.linalg.solve(matrix + damping * np.eye(len(matrix)), asked.T).T


def richardson(asked, matrix, damping, step, iterations):
    """u <- u + eta (g - (H + lam I) u) as it stands, from u = eta g, which counts as the first step."""
    u = step * asked
    for _ in range(iterations - 1):
        u = u + step * (asked - u @ matrix - damping * u)
    return u


def best_step(matrix, damping):
    return 1 / (np.linalg.eigvalsh(matrix).max() + damping)


def assert_close(found, expected, tolerance=1e-4):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


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


# --- sampled


def sampled(train, asked, seed=0, **options):
    taken = {} if "batch" in options else {"tolerance": EXACT}
    return scores(train, asked, seed=seed, blocks="single", **taken, **options)


@pytest.mark.parametrize("batch", [N, 10 * N])
def test_a_batch_of_all_items_is_the_full_recursion(batch):
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    full = sampled(train, asked, iterations=40)
    assert_close(sampled(train, asked, iterations=40, batch=batch), full)
    assert sampled(train, asked, iterations=40, batch=batch)[0] == pytest.approx(full[0], rel=1e-3, abs=1e-3)


def test_sampled_recursion_is_decided_by_the_seed():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    first = sampled(train, asked, batch=3, iterations=30)
    np.testing.assert_array_equal(sampled(train, asked, batch=3, iterations=30), first)
    assert np.abs(sampled(train, asked, seed=1, batch=3, iterations=30) - first).max() > 1e-3 * np.abs(first).max()


def test_a_query_gets_the_draws_that_it_gets_among_others():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    options = {"blocks": "single", "batch": 3, "iterations": 30}
    scorer = fitted(train, **options)
    together = scorer.scores(asked_of(asked, **options))
    for q in range(M):
        assert_close(scorer.scores(asked_of(asked[q : q + 1], **options))[0], together[q], 1e-5)


def test_sampled_recursion_is_linear_in_the_query():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    asked[2] = 3 * asked[0] - 0.5 * asked[1]
    found = sampled(train, asked, batch=3, iterations=30)
    np.testing.assert_allclose(found[2], 3 * found[0] - 0.5 * found[1], atol=1e-4 * np.abs(found[:2]).max())


def test_sampled_recursion_is_the_full_one_on_average():
    """Draws are independent from step to step, so that the mean over seeds is exact; its error falls as 1 / seeds."""
    train, asked = raw_rows(N, 0, 5), raw_rows(1, 1, 5)
    damping, iterations, seeds = 0.5, 15, 300
    step = 0.5 / (train**2).sum(axis=1).max()
    options = {"step": step, "iterations": iterations, **absolute(damping)}
    expected = richardson(asked, fisher(train), damping, step, iterations) @ train.T
    found = np.array([sampled(train, asked, seed=seed, batch=4, **options)[0] for seed in range(seeds)])
    error = np.linalg.norm(found.mean(axis=0) - expected[0])
    spread = np.sqrt(found.var(axis=0).sum() / seeds)
    assert spread < 0.05 * np.linalg.norm(expected)
    assert error < 3 * spread


def test_larger_batches_come_closer():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    step = 1 / (train**2).sum(axis=1).max()
    full = richardson(asked, fisher(train), 1.0, step, 60) @ train.T
    options = {"step": step, "iterations": 60, **absolute(1.0)}
    errors = [
        np.mean([np.linalg.norm(sampled(train, asked, seed=s, batch=b, **options) - full) for s in range(10)])
        for b in (1, 5, 15, 20)
    ]
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 1e-5 * np.linalg.norm(full)


def test_residual_of_the_sampled_recursion_is_measured_on_all_items():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    options = {"blocks": "single", "batch": 3, "iterations": 30}
    scorer = fitted(train, **options)
    assert isinstance(scorer, SampledScorer)
    u = np.linalg.lstsq(train, scorer.scores(asked_of(asked, **options)).T.astype("f8"), rcond=None)[0].T
    damping = 0.1 * (train**2).mean()
    left = asked - u @ fisher(train) - damping * u
    expected = (np.linalg.norm(left, axis=1) / np.linalg.norm(asked, axis=1)).max()
    assert scorer.facts()["residual"] == pytest.approx(expected, rel=1e-3)
    assert scorer.facts()["damping"] == pytest.approx(damping, rel=1e-5)
    assert scorer.size().rows == 8 * N * K


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


# --- the network's own curvature


@pytest.fixture(scope="module")
def quadratic():
    """Linear in its parameters: its loss is quadratic, and its Hessian is the Gauss-Newton matrix."""
    return Small(seeded(lambda: nn.Sequential(nn.Linear(3, 3))), (1, 2, 3))


@pytest.fixture(scope="module")
def curved():
    return Small(seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))), (1, 2, 3))


def asking(samples, seed=0):
    """A context that gives these samples as the training set."""
    return context(seed, training=lambda source: samples)


def network(**options):
    return LiSSAOptions(**{"hessian": "ggn", "tolerance": 1e-9, "iterations": 20_000, **options})


def queries(samples, count=4):
    """[1, m, p] gradients to solve for."""
    return batch_gradients(samples.denoiser, everything(samples))[:count][None]


@pytest.mark.parametrize("hessian", ["ggn", "hessian"])
def test_network_recursion_on_a_quadratic_loss_converges_to_the_dense_solution(quadratic, hessian):
    samples = small_samples(quadratic)
    matrix = dense_curvature(quadratic, everything(samples), "hessian").numpy()
    asked = queries(samples)
    made = solve(asked, network(hessian=hessian, **absolute(0.05)), asking(samples))
    np.testing.assert_allclose(made.gradients[0], dense(asked[0].numpy(), matrix, 0.05), rtol=1e-6, atol=1e-8)
    assert made.gradients.shape == asked.shape
    assert made.facts["residual"] <= 1e-9
    assert made.facts["queries_with_negative_curvature"] == 0
    assert made.facts["top_eigenvalue"] == pytest.approx(np.linalg.eigvalsh(matrix).max(), rel=1e-3)


def test_network_recursion_with_the_gauss_newton_matrix_of_a_curved_network(curved):
    samples = small_samples(curved)
    matrix = dense_curvature(curved, everything(samples), "ggn").numpy()
    asked = queries(samples)
    made = solve(asked, network(**absolute(0.1)), asking(samples))
    np.testing.assert_allclose(made.gradients[0], dense(asked[0].numpy(), matrix, 0.1), rtol=1e-5, atol=1e-7)


def test_closed_form_for_a_linear_layer(quadratic):
    """H = (2 / d) sum over positions of mean(a a^T), for each output alike, a the input with a one behind it."""
    samples = small_samples(quadratic)
    x = everything(samples).noisy.flatten(0, 2).numpy()
    a = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    block = 2 / 6 * 2 * a.T @ a / len(a)  # d = 6 outputs at 2 positions
    matrix = dense_curvature(quadratic, everything(samples), "ggn").numpy()
    weights, bias = np.arange(9).reshape(3, 3), np.arange(9, 12)
    for o in range(3):
        mine = [*weights[o], bias[o]]
        np.testing.assert_allclose(matrix[np.ix_(mine, mine)], block, rtol=1e-9, atol=1e-12)
    assert np.abs(matrix).sum() == pytest.approx(3 * np.abs(block).sum())


@pytest.mark.parametrize(
    ("iterations", "batch", "tolerance", "damping"),
    [(25, 5, EXACT, 0.3), (1000, 1000, 0.02, 0.01), (1000, 1000, 0.015, 0.01)],
)
def test_each_query_is_solved_as_it_is_alone(quadratic, iterations, batch, tolerance, damping):
    samples = small_samples(quadratic)
    asked = queries(samples, 3)
    options = network(iterations=iterations, tolerance=tolerance, batch=batch, **absolute(damping))
    together = solve(asked, options, asking(samples)).gradients
    steps = set()
    for q in range(3):
        alone = solve(asked[:, q : q + 1], options, asking(samples))
        steps.add(alone.facts["iterations"])
        torch.testing.assert_close(alone.gradients[:, 0], together[:, q])
    assert tolerance == EXACT or len(steps) > 1  # they do not stop together


@given(st.lists(st.floats(-1.05, 1.05), min_size=1, max_size=5), st.integers(0, 400))
def test_sums_of_powers_are_those_added_one_by_one(rates, last):
    rates = np.array([*rates, 1.0, 1 - 1e-12, 0.0, -1.0])
    expected = sum((rates**k for k in range(last + 1)), start=np.zeros_like(rates))
    np.testing.assert_allclose(power_sum(rates, last), expected, rtol=1e-9, atol=1e-12)


def test_network_recursion_is_linear_in_the_query(curved):
    samples = small_samples(curved)
    asked = queries(samples, 3).clone()
    asked[0, 2] = 3 * asked[0, 0] - asked[0, 1]
    options = network(iterations=25, tolerance=EXACT, batch=5, **absolute(0.3))
    (found,) = solve(asked, options, asking(samples)).gradients
    torch.testing.assert_close(found[2], 3 * found[0] - found[1])


def test_drawn_batches_are_decided_by_the_seed_and_come_near_the_dense_solution(quadratic):
    samples = small_samples(quadratic, 20)
    asked = queries(samples)
    expected = dense(asked[0].numpy(), dense_curvature(quadratic, everything(samples), "ggn").numpy(), 0.3)
    expected = torch.from_numpy(expected)
    errors = []
    for batch in (20, 50):
        options = network(iterations=30, tolerance=EXACT, batch=batch, **absolute(0.3))
        first, again, other = (solve(asked, options, asking(samples, seed)).gradients for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        errors.append((first[0] - expected).norm() / expected.norm())
    assert errors[1] < errors[0] < 0.2


def test_too_large_a_step_is_an_error_of_one_line_that_says_what_to_do(quadratic):
    samples = small_samples(quadratic)
    with pytest.raises(AttrbenchError, match=r"diverges.*step=") as error:
        solve(queries(samples), network(step=1e3), asking(samples))
    assert "\n" not in str(error.value)


def test_negative_eigenvalues_beyond_the_damping_are_an_error_that_names_the_gauss_newton_matrix(curved):
    samples = small_samples(curved)
    lowest = float(torch.linalg.eigvalsh(dense_curvature(curved, everything(samples), "hessian"))[0])
    assert lowest < -0.01
    with pytest.raises(AttrbenchError, match="hessian=ggn"):
        solve(queries(samples), network(hessian="hessian", **absolute(1e-6)), asking(samples))
    solve(queries(samples), network(hessian="hessian", **absolute(-2 * lowest)), asking(samples))


def test_queries_of_negative_curvature_are_counted(curved):
    """The fewer of them the better the Hessian is for a step: here the query is its lowest eigenvector."""
    samples = small_samples(curved)
    matrix = dense_curvature(curved, everything(samples), "hessian")
    values, vectors = torch.linalg.eigh(matrix)
    asked = vectors[:, [0, -1]].T[None]
    options = network(hessian="hessian", **absolute(-2 * float(values[0])))
    assert solve(asked, options, asking(samples)).facts["queries_with_negative_curvature"] == 1


def test_relative_damping_is_in_units_of_the_mean_diagonal(quadratic):
    samples = small_samples(quadratic)
    facts = solve(queries(samples), network(damping=0.5), asking(samples)).facts
    mean = float(dense_curvature(quadratic, everything(samples), "ggn").diagonal().mean())
    assert facts["damping"] == pytest.approx(0.5 * mean, rel=0.5)  # eight probes


class Silent(nn.Module):
    """A network whose parameters nothing depends on."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        return x * 1.0


def test_network_without_curvature_leaves_the_gradient_over_the_damping():
    samples = small_samples(Small(seeded(Silent), (1, 2, 3)))
    asked = torch.randn(1, 2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = solve(asked, network(iterations=10, **absolute(0.25)), asking(samples))
    torch.testing.assert_close(made.gradients, 4 * asked)


@pytest.mark.parametrize("hessian", ["ggn", "hessian"])
def test_relative_damping_without_curvature_is_refused(hessian):
    samples = small_samples(Small(seeded(Silent), (1, 2, 3)))
    with pytest.raises(AttrbenchError, match="damping_mode=absolute"):
        solve(torch.ones(1, 2, 12, dtype=torch.float64), network(hessian=hessian), asking(samples))


def test_relative_damping_of_a_hessian_of_negative_trace_is_refused():
    class Concave(Small):
        """Its target lies far beyond what it predicts: the residual's curvature outweighs the rest."""

        def target(self, latents, noise, t):
            return torch.full_like(latents, 100.0)

    samples = small_samples(Concave(seeded(lambda: nn.Sequential(nn.Linear(3, 3), Square())), (1, 2, 3)))
    assert dense_curvature(samples.denoiser, everything(samples), "hessian").trace() < 0
    asked = torch.ones(1, 2, 12, dtype=torch.float64)
    with pytest.raises(AttrbenchError, match="hessian=ggn"):
        solve(asked, network(hessian="hessian"), asking(samples))


class Square(nn.Module):
    def forward(self, x):
        return x.square()


@pytest.mark.parametrize("iterations", [1, 2, 15])
def test_residual_is_measured_after_the_last_step_however_few_there_are(quadratic, iterations):
    samples = small_samples(quadratic)
    asked = queries(samples)
    matrix = dense_curvature(quadratic, everything(samples), "ggn").numpy()
    made = solve(asked, network(iterations=iterations, tolerance=EXACT, **absolute(0.05)), asking(samples))
    expected = richardson(asked[0].numpy(), matrix, 0.05, made.facts["step"], iterations)
    np.testing.assert_allclose(made.gradients[0], expected, rtol=1e-6, atol=1e-9)
    left = asked[0].numpy() - expected @ matrix - 0.05 * expected
    worst = (np.linalg.norm(left, axis=1) / asked[0].norm(dim=1).numpy()).max()
    assert made.facts["residual"] == pytest.approx(worst, rel=1e-5)
    assert made.facts["iterations"] == iterations


def test_power_iteration_finds_the_largest_eigenvalue_by_modulus():
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(15, 15)))[0]
    for top in (8.0, -8.0):
        matrix = torch.from_numpy(
            (vectors * np.linspace(0, 4, 15)) @ vectors.T + (top - 4) * vectors[:, -1:] @ vectors[:, -1:].T
        )
        assert float(torch.linalg.eigvalsh(matrix).abs().max()) == pytest.approx(8)
        found = top_eigenvalue(lambda v, matrix=matrix: v @ matrix, 15, matrix, torch.Generator().manual_seed(0))
        assert found == pytest.approx(8, rel=1e-3)


def test_mean_diagonal_is_exact_for_diagonal_matrices_and_close_for_others():
    diagonal = torch.diag(torch.arange(6, dtype=torch.float64))
    found = mean_diagonal(lambda v: v @ diagonal, 6, diagonal, torch.Generator().manual_seed(0))
    assert found == pytest.approx(2.5)
    other = torch.from_numpy(fisher(raw_rows(N, 0)))
    found = mean_diagonal(lambda v: v @ other, K, other, torch.Generator().manual_seed(0), probes=4000)
    assert found == pytest.approx(float(other.diagonal().mean()), rel=0.03)
    assert mean_diagonal(lambda v: -v, 6, diagonal, torch.Generator().manual_seed(0)) == pytest.approx(-1)


def test_the_method_asks_the_network_through_its_transform(quadratic):
    samples = small_samples(quadratic)
    method = LiSSA(network(**absolute(0.05)))
    request = method.features()
    (feature,) = request.train
    assert isinstance(feature, GradientProducts)
    assert (request.query, feature.timesteps) == ((feature,), "mean")
    asked = queries(samples)
    made = method.transform(asked, asking(samples))
    train = batch_gradients(quadratic, everything(samples))[:, None].numpy()
    view = products(made.gradients.transpose(0, 1).numpy(), train)
    scorer = method.fit(train_features(method, len(train), products=TrainProducts({})), context())
    found = scorer.scores(query_features(method, len(view.values), products=view))
    matrix = dense_curvature(quadratic, everything(samples), "ggn").numpy()
    np.testing.assert_allclose(found, dense(asked[0].numpy(), matrix, 0.05) @ train[:, 0].T, rtol=1e-4, atol=1e-6)


def test_what_the_transform_depends_on_is_in_its_name():
    (name,) = LiSSA(network()).features().train
    changes = {"hessian": "hessian", "damping": 0.2, "damping_mode": "absolute", "iterations": 3, "tolerance": 0.1}
    for option, value in {**changes, "step": 0.1, "batch": 5, "timesteps": 3, "noise_seed": 1}.items():
        assert LiSSA(network(**{option: value})).features().train != (name,), option


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
