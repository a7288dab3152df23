"""Kronecker factors against explicit matrices (methods-spec 12.6, T11 and worked example I.7).

Matrices are over vec(W) row by row, [o * i, o * i], a bias being a last column of W.
"""

import itertools
import logging
from contextlib import ExitStack

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.contracts.samples import Batch
from attrbench.errors import Unavailable
from attrbench.gradients.curvature import kronecker
from attrbench.gradients.curvature.kronecker import (
    FactorOptions,
    LayerFactors,
    TrackedLayer,
    kronecker_factors,
    tracked_layers,
)
from attrbench.gradients.samples import Split
from tests.methods.in_memory import (
    InTurn,
    Small,
    batch_gradients,
    dense_curvature,
    everything,
    seeded,
    small_items,
    small_samples,
)

COUNT, STEPS = 6, 3
DRAWS = COUNT * STEPS
ONE = GradientSource(grid=TimestepGrid(kind="single", at=300, steps=1), noise="per-item")
FISHERS = ["mc", "empirical"]


class Tokens(nn.Module):
    """Linear layers over six positions, with a norm between them, which is not tracked."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.outer = nn.Linear(3, 4, bias=False), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x):
        return self.outer(torch.tanh(self.norm(self.inner(x))))


class Convolutions(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(2, 3, 3, stride=2, padding=1),
            nn.Tanh(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(3, 2, 1, bias=False),
        )


NETWORKS = {Tokens: (1, 6, 3), Convolutions: (2, 4, 4)}


def linear(width=4, bias=True):
    return lambda: nn.Sequential(nn.Linear(width, width, bias=bias))


def samples_of(make, shape, count=COUNT, seed=0, **options):
    return small_samples(Small(seeded(make, seed), shape), count, kind=InTurn, **options)


@pytest.fixture(scope="module")
def problems():
    return {network: samples_of(network, shape) for network, shape in NETWORKS.items()}


def matrix(factors, corrected):
    """[o * i, o * i] of one layer."""
    vectors = torch.kron(factors.outputs, factors.inputs).double()
    values = (factors.ekfac if corrected else factors.kfac).double()
    return vectors @ torch.diag(values.flatten()) @ vectors.T


def layer_gradients(layer, whole):
    """[B, o * i] of whole gradients [B, p]."""
    return layer.take(whole).flatten(1)


def measured(samples, options, purpose):
    """[draws, p] gradients of the samples that are drawn for a purpose, by the loop back end."""
    output = kronecker._output(options.fisher)
    rows = []
    for batch in kronecker._draws(samples, options, purpose):
        compute = samples.gradients(output, "loop")
        whole = torch.zeros(len(batch.t), compute.total, dtype=torch.float64)
        compute(batch, lambda offset, part, whole=whole: whole[:, offset : offset + part.shape[1]].copy_(part))
        rows.append(whole)
    return torch.cat(rows)


def second_moment(rows):
    return rows.T @ rows / len(rows)


def close(found, expected, tolerance=1e-5):
    found, expected = (torch.as_tensor(each).double() for each in (found, expected))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


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


def convolution_patches(module, x):
    """[R, C k k] what each output position of a convolution sees of x [C, H, W], by loops."""
    (pad_y, pad_x), (step_y, step_x), (gap_y, gap_x) = module.padding, module.stride, module.dilation
    high, wide = module.kernel_size
    x = F.pad(x, (pad_x, pad_x, pad_y, pad_y))
    places = itertools.product(
        range(0, x.shape[1] - gap_y * (high - 1), step_y), range(0, x.shape[2] - gap_x * (wide - 1), step_x)
    )
    offsets = list(itertools.product(range(len(x)), range(high), range(wide)))
    return torch.stack(
        [torch.stack([x[c, top + gap_y * i, left + gap_x * j] for c, i, j in offsets]) for top, left in places]
    )


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


# --- solving


def asked_and_train(samples, seed=0):
    """Two queries' random gradients and those of the samples, in single precision as a run has them."""
    train = batch_gradients(samples.denoiser, everything(samples))
    asked = torch.randn(2, train.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (asked * train.norm(dim=1).mean()).float(), train.float()


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


# --- where layers lie


CONVOLUTIONS = st.fixed_dictionaries(
    {
        "kernel_size": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "stride": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "padding": st.tuples(st.integers(0, 2), st.integers(0, 2)),
        "dilation": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "bias": st.booleans(),
    }
)


@given(CONVOLUTIONS)
@settings(max_examples=40, deadline=None)
def test_patches_and_positions_of_a_convolution_make_its_gradient(options):
    module = seeded(lambda: nn.Conv2d(2, 3, **options))
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    offsets = {"conv.weight": 0} | ({"conv.bias": module.weight.numel()} if options["bias"] else {})
    layer = TrackedLayer("conv", module, offsets)
    output = module(x)
    g = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    a, s = layer.patches(x), layer.positions(g)
    expected = torch.stack([convolution_patches(module, each) for each in x])
    torch.testing.assert_close(a[..., : layer.columns], expected)
    for b in range(2):
        parts = torch.autograd.grad(module(x[b : b + 1]), list(module.parameters()), g[b : b + 1])
        whole = torch.cat([part.flatten() for part in parts])
        torch.testing.assert_close(s[b].T @ a[b], layer.take(whole))


def test_bias_is_a_last_column_of_ones(problems):
    inner, outer = tracked_layers(problems[Tokens])
    x = torch.randn(2, 6, 4, dtype=torch.float64)
    assert torch.equal(outer.patches(x), torch.cat([x, torch.ones(2, 6, 1)], dim=2))
    assert torch.equal(inner.patches(x[..., :3]), x[..., :3])
    whole = torch.arange(problems[Tokens].gradients().total)
    module = problems[Tokens].denoiser.module
    names = [name for name, _ in module.named_parameters()]
    assert names[-1] == "outer.bias"
    assert outer.take(whole)[:, -1].tolist() == whole[-3:].tolist()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("leading", [(), (4,), (1, 4)])
def test_parts_that_are_taken_and_put_back_restore_the_whole(problems, network, leading):
    samples = problems[network]
    total = samples.gradients().total
    whole = torch.randn(*leading, total, generator=torch.Generator().manual_seed(0))
    restored = torch.full_like(whole, torch.nan)
    for layer in tracked_layers(samples):
        layer.put(restored, layer.take(whole))
    kept = ~restored.isnan()
    assert torch.equal(restored[kept], whole[kept])
    norm = {"norm.weight", "norm.bias"}
    lost = sum(parameter.numel() for name, parameter in samples.parameters.items() if name in norm)
    assert kept.sum() == (total - lost) * np.prod(leading, dtype=int)


class Odd(nn.Module):
    """Layers that K-FAC has no form for, beside one that it has."""

    def __init__(self):
        super().__init__()

        class Doubled(nn.Linear):
            def forward(self, x):
                return 2 * super().forward(x)

        self.plain = nn.Linear(4, 4)
        self.doubled = Doubled(4, 4)
        self.groups = nn.Conv2d(2, 2, 1, groups=2)
        self.circular = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")
        self.same = nn.Conv2d(2, 2, 3, padding="same")
        self.norm = nn.GroupNorm(1, 2)

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


def test_layers_of_other_forms_are_left_out_and_named(caplog):
    samples = samples_of(Odd, (2, 2, 4))
    with caplog.at_level(logging.INFO):
        assert [layer.name for layer in tracked_layers(samples)] == ["plain"]
    assert "10 parameters of other layers" in caplog.text
    assert "circular" in caplog.text
    factors = kronecker_factors(samples, FactorOptions(draws=DRAWS))
    solved = factors.solve(torch.ones(1, samples.gradients().total), True, 0.1, relative=True)
    assert solved[0, :20].all()
    assert not solved[0, 20:].any()


def test_network_without_any_such_layer_is_unavailable():
    with pytest.raises(Unavailable, match="Linear or Conv2d"):
        tracked_layers(samples_of(lambda: nn.Sequential(nn.GroupNorm(1, 2)), (2, 2, 2)))


class PartlyUnused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.never, self.vain = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        self.vain(x)
        return self.used(x)


def test_layer_that_nothing_depends_on_takes_no_part():
    samples = samples_of(PartlyUnused, (1, 1, 4))
    factors = kronecker_factors(samples, FactorOptions(draws=DRAWS))
    _, train = asked_and_train(samples)
    solved = factors.solve(train, True, 0.1, relative=True)
    assert solved[:, :20].any()
    assert not solved[:, 20:].any()


class AtOnce(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return torch.tanh(self.layer(x))


class OneByOne(AtOnce):
    """The same layer, called anew for each of the two positions."""

    def forward(self, x):
        return torch.cat([torch.tanh(self.layer(x[:, :, place : place + 1])) for place in range(2)], dim=2)


@pytest.mark.parametrize(
    "corrected",
    [
        True,
        False,
    ],
    ids=["ekfac", "kfac"],
)
def test_layer_called_for_each_position_is_the_layer_called_for_all(corrected):
    found = []
    for network in (AtOnce, OneByOne):
        samples = samples_of(network, (1, 2, 3))
        factors = kronecker_factors(samples, FactorOptions(draws=DRAWS))
        found.append(matrix(factors.factors["layer"], corrected))
    close(found[1], found[0], 1e-4)


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
