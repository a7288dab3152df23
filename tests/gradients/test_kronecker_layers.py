"""Each parameter of a tracked layer has its place in the factors, and layers of other forms take no part."""

# ruff: noqa: F811 (fixtures are imported, and then named by tests)

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attrbench.errors import Unavailable
from attrbench.gradients.curvature.kronecker import FactorOptions, TrackedLayer, kronecker_factors, tracked_layers
from tests.gradients.kronecker_problems import (
    DRAWS,
    NETWORKS,
    Tokens,
    asked_and_train,
    close,
    convolution_patches,
    matrix,
    problems,  # noqa: F401
    samples_of,
)
from tests.methods.in_memory import seeded

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
