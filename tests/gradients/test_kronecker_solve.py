"""Solving by Kronecker factors is solving by their explicit matrix (George et al. 2018, arXiv 1806.03884)."""

# ruff: noqa: F811 (fixtures are imported, and then named by tests)

import numpy as np
import pytest
import torch
from torch import nn

from attrbench.gradients.curvature.kronecker import FactorOptions, LayerFactors, kronecker_factors
from tests.gradients.kronecker_problems import (
    DRAWS,
    FISHERS,
    NETWORKS,
    ONE,
    Tokens,
    asked_and_train,
    close,
    layer_gradients,
    linear,
    matrix,
    problems,  # noqa: F401
    samples_of,
)
from tests.methods.in_memory import InTurn, Small, batch_gradients, everything, seeded, small_samples

# --- one layer


@pytest.mark.parametrize("corrected", [True, False], ids=["ekfac", "kfac"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lam", [1e-3, 1.0])
def test_one_draw_of_one_linear_layer_gives_the_explicit_inverse(corrected, bias, lam):
    """F = vec(s a^T) vec(s a^T)^T exactly; a turned-round eigenbasis would not pass."""
    samples = samples_of(linear(bias=bias), (1, 1, 4), count=1, source=ONE)
    factors = kronecker_factors(samples, FactorOptions("empirical", draws=1))
    gradient = batch_gradients(samples.denoiser, everything(samples))
    (layer,) = factors.layers
    asked = torch.randn(5, gradient.shape[1], generator=torch.Generator().manual_seed(0))
    flat, mine = layer_gradients(layer, gradient), layer_gradients(layer, asked).double()
    explicit = flat.T @ flat + lam * torch.eye(flat.shape[1])
    solved = layer_gradients(layer, factors.solve(asked, corrected, lam, relative=False))
    close(solved, torch.linalg.solve(explicit, mine.T).T, 1e-4)


def test_worked_example():
    """I.7: a = (1, 2), s = 3, lam = 5: Lambda = (0, 45), and V = (1, 2) goes to (0.02, 0.04)."""

    class Example(Small):
        def noisy(self, latents, noise, t):
            return torch.tensor([1.0, 2.0], dtype=torch.float64).expand(len(latents), 1, 1, 2)

        def target(self, latents, noise, t):
            return torch.full((len(latents), 1, 1, 1), -1.5, dtype=torch.float64)  # s = 2 (0 + 1.5)

    module = seeded(lambda: nn.Sequential(nn.Linear(2, 1, bias=False)))
    nn.init.zeros_(module[0].weight)
    samples = small_samples(Example(module, (1, 1, 2)), 1, ONE, InTurn)
    factors = kronecker_factors(samples, FactorOptions("empirical", draws=1))
    for values in (factors.factors["0"].ekfac, factors.factors["0"].kfac):
        close(values, [[0.0, 45.0]])
    for corrected in (True, False):
        close(factors.solve(torch.tensor([[1.0, 2.0]]), corrected, 5.0, relative=False), [[0.02, 0.04]])


def test_solve_is_the_inverse_of_the_explicit_matrix():
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = (torch.linalg.qr(torch.randn(k, k, generator=generator))[0] for k in (4, 3))
    kfac, ekfac = torch.rand(2, 3, 4, generator=generator)
    factors = LayerFactors(inputs, outputs, kfac, ekfac)
    asked = torch.randn(5, 3, 4, generator=generator)
    for corrected, values in ((True, ekfac), (False, kfac)):
        for damping, relative in ((0.3, False), (0.1, True)):
            lam = damping * float(values.mean()) if relative else damping
            explicit = matrix(factors, corrected) + lam * torch.eye(12)
            expected = torch.linalg.solve(explicit, asked.flatten(1).double().T).T.view(5, 3, 4)
            close(factors.solve(asked, corrected, damping, relative), expected)


def test_layer_without_curvature_is_damped_as_if_its_unit_were_one():
    zero = torch.zeros(2, 3)
    factors = LayerFactors(torch.eye(3), torch.eye(2), zero, zero)
    asked = torch.ones(1, 2, 3)
    close(factors.solve(asked, True, 0.5, relative=True), 2 * asked)


# --- solving


@pytest.mark.parametrize("corrected", [True, False], ids=["ekfac", "kfac"])
@pytest.mark.parametrize("network", NETWORKS)
def test_large_damping_leaves_the_inner_product_over_the_tracked_layers(problems, network, corrected):
    samples = problems[network]
    factors = kronecker_factors(samples, FactorOptions(draws=DRAWS))
    asked, train = asked_and_train(samples)
    found = factors.solve(asked, corrected, 1e9, relative=False) * 1e9
    expected = sum(layer_gradients(layer, asked) @ layer_gradients(layer, train).T for layer in factors.layers)
    close(found @ train.T, expected, 1e-4)
    assert (network is Tokens) == bool((asked @ train.T - expected).norm() > 0.01 * expected.norm())


@pytest.mark.parametrize("corrected", [True, False], ids=["ekfac", "kfac"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_inverse_is_symmetric_and_positive(problems, network, corrected):
    samples = problems[network]
    factors = kronecker_factors(samples, FactorOptions(draws=DRAWS))
    _, train = asked_and_train(samples)
    scores = factors.solve(train, corrected, 0.1, relative=True) @ train.T
    close(scores, scores.T, 1e-4)
    assert scores.diagonal().min() > 0


@pytest.mark.parametrize("corrected", [True, False], ids=["ekfac", "kfac"])
def test_relative_damping_is_in_units_of_each_layers_mean_eigenvalue(problems, corrected):
    samples = problems[Tokens]
    factors = kronecker_factors(samples, FactorOptions(draws=DRAWS))
    asked, _ = asked_and_train(samples)
    found = factors.solve(asked, corrected, 0.1, relative=True)
    means = []
    for layer in factors.layers:
        each = factors.factors[layer.name]
        means.append(0.1 * float((each.ekfac if corrected else each.kfac).mean()))
        close(layer.take(found), each.solve(layer.take(asked), corrected, means[-1], relative=False))
    assert max(means) > 1.2 * min(means)


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("corrected", [True, False], ids=["ekfac", "kfac"])
def test_another_orthonormal_basis_of_the_inputs_changes_nothing(corrected, fisher):
    rotation = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0])

    class Rotated(Small):
        def noisy(self, latents, noise, t):
            return super().noisy(latents, noise, t) @ rotation.T

    def scores(kind, module):
        samples = small_samples(kind(module, (1, 1, 4)), kind=InTurn)
        factors = kronecker_factors(samples, FactorOptions(fisher, draws=DRAWS))
        train = batch_gradients(samples.denoiser, everything(samples)).float()
        return train, factors.solve(train, corrected, 0.1, relative=True) @ train.T

    module, turned = (seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4))) for _ in range(2))
    turned[0].weight.data = module[0].weight.data @ rotation.T
    (plain, expected), (rows, found) = scores(Small, module), scores(Rotated, turned)
    assert (plain - rows).norm() > 0.1 * plain.norm()
    close(found, expected, 1e-3)


@pytest.mark.parametrize("fisher", FISHERS)
def test_convolution_of_one_pixel_is_a_linear_layer(fisher):
    wide, deep = (1, 1, 3), (3, 1, 1)
    layer, convolution = (seeded(make) for make in (linear(3), lambda: nn.Sequential(nn.Conv2d(3, 3, 1))))
    convolution[0].weight.data = layer[0].weight.data[:, :, None, None]
    convolution[0].bias.data = layer[0].bias.data
    found = []
    for module, shape in ((layer, wide), (convolution, deep)):
        samples = small_samples(Small(module, shape), kind=InTurn)
        samples.split.items.__dict__["keys"] = tuple(str(i) for i in range(samples.count))  # the same noise for both
        factors = kronecker_factors(samples, FactorOptions(fisher, draws=DRAWS))
        asked, train = asked_and_train(samples)
        found.append([*(matrix(factors.factors["0"], each) for each in (True, False)), train])
        found[-1].append(factors.solve(asked, True, 0.1, relative=True))
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-4)
