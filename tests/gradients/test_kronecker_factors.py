"""Kronecker factors of whole networks are those of explicit matrices (Martens, Grosse 2015, arXiv 1503.05671)."""

# ruff: noqa: F811 (fixtures are imported, and then named by tests)

from contextlib import ExitStack

import pytest
import torch
from torch import nn

from attrbench.contracts.samples import Batch
from attrbench.gradients.curvature import kronecker
from attrbench.gradients.curvature.kronecker import FactorOptions, LayerFactors, kronecker_factors, tracked_layers
from attrbench.gradients.samples import Split
from tests.gradients.kronecker_problems import (
    DRAWS,
    FISHERS,
    NETWORKS,
    ONE,
    Convolutions,
    Tokens,
    asked_and_train,
    close,
    convolution_patches,
    layer_gradients,
    linear,
    matrix,
    measured,
    problems,  # noqa: F401
    samples_of,
    second_moment,
)
from tests.methods.in_memory import InTurn, batch_gradients, dense_curvature, everything, small_items, small_samples

# --- whole networks


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_eigenvalues_are_second_moments_in_the_eigenbasis_and_add_up_to_the_squared_norm(problems, network, fisher):
    samples, options = problems[network], FactorOptions(fisher, draws=37)
    factors = kronecker_factors(samples, options)
    rows = measured(samples, options, "values")
    assert len(rows) == 37
    for layer in factors.layers:
        each, found = layer.take(rows), factors.factors[layer.name]
        rotated = found.outputs.double().T @ each @ found.inputs.double()
        close(found.ekfac, rotated.square().mean(0))
        assert float(found.ekfac.sum()) == pytest.approx(float(each.square().sum() / len(rows)), rel=1e-4)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_corrected_eigenvalues_are_never_further_from_the_fisher_matrix(problems, network, fisher, sharing):
    samples, options = problems[network], FactorOptions(fisher, sharing, draws=DRAWS)
    factors = kronecker_factors(samples, options)
    rows = measured(samples, options, "values")
    for layer in factors.layers:
        explicit, found = second_moment(layer_gradients(layer, rows)), factors.factors[layer.name]
        corrected, plain = ((explicit - matrix(found, each)).norm() for each in (True, False))
        assert corrected < plain
        for change in (0.9, 1.1):  # nor is any other multiple of them closer
            other = LayerFactors(found.inputs, found.outputs, found.kfac, change * found.ekfac)
            assert corrected < (explicit - matrix(other, True)).norm()


def listened(samples, batch):
    """{layer: [(a [R, i], s [R, o]) of each pair]}, pair by pair."""
    found = {}
    for b in range(len(batch.t)):
        with ExitStack() as hooks:
            seen = {}

            def keep(module, inputs, output, seen=seen):
                output.retain_grad()
                seen[module] = inputs[0].detach(), output

            for module in samples.denoiser.module.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    hooks.callback(module.register_forward_hook(keep).remove)
            predicted = samples.denoiser.module(batch.noisy[b : b + 1])
        (predicted - batch.target[b : b + 1]).square().mean().backward()
        for name, module in samples.denoiser.module.named_modules():
            if module not in seen:
                continue
            x, y = seen[module]
            if isinstance(module, nn.Conv2d):
                a, s = convolution_patches(module, x[0]), y.grad[0].flatten(1).T
            else:
                a, s = x.reshape(-1, x.shape[-1]), y.grad.reshape(-1, y.shape[-1])
            if module.bias is not None:
                a = torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], dim=1)
            found.setdefault(name, []).append((a, s))
    samples.denoiser.module.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("network", NETWORKS)
def test_factors_are_those_of_explicit_loops_over_samples_and_positions(problems, network, sharing):
    """A is a mean over positions and S a sum, so that their product is the curvature of the sum over positions."""
    samples = problems[network]
    factors = kronecker_factors(samples, FactorOptions("empirical", sharing, draws=DRAWS))
    seen = listened(samples, everything(samples))
    assert set(seen) == {layer.name for layer in factors.layers}
    for name, each in seen.items():
        if sharing == "reduce":
            each = [(a.mean(0, keepdim=True), s.sum(0, keepdim=True)) for a, s in each]
        inputs = sum(a.T @ a / len(a) for a, _ in each) / len(each)
        outputs = sum(s.T @ s for _, s in each) / len(each)
        close(matrix(factors.factors[name], False), torch.kron(outputs, inputs))


@pytest.mark.parametrize("network", NETWORKS)
def test_sharing_makes_a_difference_where_there_are_several_positions(problems, network):
    expand, reduce = (
        kronecker_factors(problems[network], FactorOptions("empirical", s, DRAWS)) for s in ("expand", "reduce")
    )
    for layer in expand.layers:
        one, other = (matrix(each.factors[layer.name], False) for each in (expand, reduce))
        assert (one - other).norm() > 0.05 * one.norm()


def test_sharing_makes_none_where_there_is_one():
    samples = samples_of(linear(), (1, 1, 4))
    expand, reduce = (kronecker_factors(samples, FactorOptions("mc", s, DRAWS)) for s in ("expand", "reduce"))
    close(matrix(expand.factors["0"], False), matrix(reduce.factors["0"], False))


@pytest.mark.parametrize("network", NETWORKS)
def test_expectation_over_random_outputs_is_the_gauss_newton_matrix(problems, network):
    """The output is linear in u, so that u running through a basis stands for E[u u^T] = I."""
    samples = problems[network]
    one = everything(samples).sample(4)
    basis = torch.eye(one.target.numel(), dtype=torch.float64).view(-1, *one.target.shape[1:])
    several = one.select(torch.zeros(len(basis), dtype=torch.long))
    gradients = samples.gradients(kronecker._random_output)
    rows = torch.zeros(len(basis), gradients.total, dtype=torch.float64)
    batch = Batch(several.noisy, basis, several.t, {})
    gradients(batch, lambda offset, part: rows[:, offset : offset + part.shape[1]].copy_(part))
    close(rows.T @ rows, dense_curvature(samples.denoiser, one, "ggn"), 1e-9)


@pytest.fixture
def large_batches(monkeypatch):
    monkeypatch.setattr(kronecker, "BATCH", 6000)


@pytest.fixture
def linear_samples():
    """Two layers without anything between: inputs and gradients of outputs are independent, whatever the layer."""
    return samples_of(lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4, bias=False)), (1, 1, 4))


def test_independent_inputs_and_gradients_make_kfac_the_fisher_matrix(linear_samples, large_batches):
    factors = kronecker_factors(linear_samples, FactorOptions("mc", draws=18_000))
    ggn = dense_curvature(linear_samples.denoiser, everything(linear_samples), "ggn")
    for layer in factors.layers:
        block = layer_gradients(layer, layer_gradients(layer, ggn).T)  # in the layer's own order, rows and columns
        for corrected in (True, False):
            assert (matrix(factors.factors[layer.name], corrected) - block).norm() < 0.03 * block.norm()


def test_dependent_inputs_and_gradients_do_not(problems):
    """So that the test above can tell: the empirical Fisher matrix of one item's residuals is no product."""
    samples = problems[Tokens]
    factors = kronecker_factors(samples, FactorOptions("empirical", draws=DRAWS))
    rows = batch_gradients(samples.denoiser, everything(samples))
    for layer in factors.layers:
        block = second_moment(layer_gradients(layer, rows))
        assert (matrix(factors.factors[layer.name], False) - block).norm() > 0.1 * block.norm()


# --- draws


def test_eigenvalues_are_means_where_there_are_fewer_samples_than_a_batch_takes(problems):
    """Six items at three timesteps, 32 draws a batch: `Pairs.drawn` gives all 18."""
    samples = small_samples(problems[Tokens].denoiser)
    found = kronecker_factors(samples, FactorOptions("empirical", draws=64))
    expected = kronecker_factors(problems[Tokens], FactorOptions("empirical", draws=DRAWS))
    for layer in found.layers:
        one, other = (each.factors[layer.name] for each in (found, expected))
        close(matrix(one, False), matrix(other, False), 1e-4)
        assert float(one.ekfac.sum()) == pytest.approx(float(other.ekfac.sum()), rel=1e-4)


def test_factors_are_decided_by_the_options_and_keep_to_their_number_of_draws(problems):
    samples = small_samples(problems[Tokens].denoiser, 14)  # as a run draws them
    first, again = (kronecker_factors(samples, FactorOptions(draws=37)).tensors() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    for other in (FactorOptions(draws=37, seed=1), FactorOptions(draws=38), FactorOptions("empirical", draws=37)):
        found = kronecker_factors(samples, other).tensors()
        assert (found["inner/ekfac"] - first["inner/ekfac"]).norm() > 1e-3 * first["inner/ekfac"].norm()
    for purpose in ("vectors", "values"):
        assert [len(b.t) for b in kronecker._draws(samples, FactorOptions(draws=37), purpose)] == [32, 5]


def test_eigenvectors_and_eigenvalues_come_from_draws_of_their_own(problems):
    samples = small_samples(problems[Tokens].denoiser, 14)
    one, other = (next(iter(kronecker._draws(samples, FactorOptions(), purpose))) for purpose in ("vectors", "values"))
    assert not torch.equal(one.noisy, other.noisy)
    assert not torch.equal(one.target, other.target)


def test_listening_leaves_no_hooks_no_gradients_and_the_flags_as_they_were():
    samples = samples_of(Tokens, NETWORKS[Tokens])
    parameters = list(samples.denoiser.module.parameters())
    parameters[0].requires_grad_(False)
    kronecker_factors(samples, FactorOptions(draws=DRAWS))
    assert [parameter.requires_grad for parameter in parameters] == [False, True, True, True, True]
    assert all(parameter.grad is None for parameter in parameters)
    assert not any(module._forward_hooks for module in samples.denoiser.module.modules())


def test_tensors_and_back_make_the_same_factors(problems):
    samples = problems[Convolutions]
    factors = kronecker_factors(samples, FactorOptions(draws=DRAWS))
    again = kronecker.KroneckerFactors.of(tracked_layers(samples), factors.tensors())
    asked, _ = asked_and_train(samples)
    assert torch.equal(again.solve(asked, True, 0.1, True), factors.solve(asked, True, 0.1, True))


def test_factors_of_a_unet_are_those_of_all_its_linear_and_convolution_layers(tiny_denoiser):
    samples = InTurn(ONE, tiny_denoiser, Split("train", small_items(4, tiny_denoiser.latent_shape)))
    factors = kronecker_factors(samples, FactorOptions(draws=8))
    kinds = nn.Linear | nn.Conv2d
    names = {name for name, module in tiny_denoiser.module.named_modules() if isinstance(module, kinds)}
    assert {layer.name for layer in factors.layers} == names
    rows = torch.randn(3, samples.gradients().total, generator=torch.Generator().manual_seed(0))
    scores = factors.solve(rows, True, 0.1, relative=True) @ rows.T
    close(scores, scores.T, 1e-4)
    restored = torch.zeros_like(rows)
    for layer in factors.layers:
        layer.put(restored, layer.take(rows))
    close(factors.solve(rows, True, 1e9, relative=False) * 1e9, restored, 1e-4)
