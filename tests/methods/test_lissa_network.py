"""LiSSA with the network's own curvature converges to the dense solution, or says why it cannot."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from attrbench.errors import AttrbenchError
from attrbench.features.gradient_products import GradientProducts
from attrbench.features.views import TrainProducts
from attrbench_methods.second_order.lissa import LiSSA, LiSSAOptions, power_sum
from attrbench_methods.second_order.network_lissa import mean_diagonal, solve, top_eigenvalue
from tests.methods.in_memory import (
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
from tests.methods.lissa_recursion import EXACT, K, N, absolute, dense, fisher, richardson


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
