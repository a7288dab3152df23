"""Products with a network's own curvature, against dense matrices in float64."""

import copy

import pytest
import torch
from torch import nn

from attrbench.contracts.gradient_source import GradientSource
from attrbench.contracts.samples import Batch
from attrbench.errors import UsageError
from attrbench.gradients.curvature.hessian_products import Curvature
from attrbench.gradients.samples import NoisySamples, Split
from tests.methods.in_memory import (
    LOSS,
    Small,
    dense_curvature,
    everything,
    seeded,
    small_items,
    small_samples,
)

KINDS = ["hessian", "ggn"]


class Attention(nn.Module):
    """Scaled dot-product attention over the pixels, with a layer that is never called."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(2, 12), nn.Linear(4, 2)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, dim=2)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed).transpose(1, 2).reshape(x.shape)


class Convolutions(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 2, 3, padding=1, bias=False)
        )


class Affine(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(2, 2, 3, padding=1))


NETWORKS = [Convolutions, Attention, Affine]


@pytest.fixture(scope="module")
def problems():
    def make(kind):
        denoiser = Small(seeded(kind), (2, 3, 3))
        return denoiser, small_samples(denoiser, 2)

    return {kind: make(kind) for kind in NETWORKS}


def random_vectors(count, size, seed=0):
    return torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def total(denoiser):
    return sum(parameter.numel() for parameter in denoiser.attributed_parameters("all").values())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_the_dense_matrix(problems, network, kind):
    denoiser, samples = problems[network]
    batch = everything(samples)
    found = Curvature(samples, kind)(torch.eye(total(denoiser), dtype=torch.float64), batch)
    expected = dense_curvature(denoiser, batch, kind)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10 * float(expected.abs().max()))
    torch.testing.assert_close(found, found.T, rtol=1e-8, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("network", NETWORKS)
def test_gauss_newton_matrix_has_no_negative_eigenvalue_and_the_hessian_of_a_curved_network_has(problems, network):
    denoiser, samples = problems[network]
    batch, identity = everything(samples), torch.eye(total(denoiser), dtype=torch.float64)
    values = torch.linalg.eigvalsh(Curvature(samples, "ggn")(identity, batch))
    assert values[0] > -1e-12 * values[-1]
    hessian = Curvature(samples, "hessian")(identity, batch)
    lowest = torch.linalg.eigvalsh(hessian)[0]
    assert (lowest < -1e-3 * values[-1]) == (network is not Affine)
    same = torch.allclose(hessian, Curvature(samples, "ggn")(identity, batch), atol=1e-10)
    assert same == (network is Affine)


@pytest.mark.parametrize("kind", KINDS)
def test_the_two_agree_where_the_residual_is_zero(problems, kind):
    denoiser, samples = problems[Convolutions]
    batch = everything(samples)
    with torch.no_grad():
        fitted = Batch(batch.noisy, denoiser.module(batch.noisy), batch.t, {})
    vectors = random_vectors(3, total(denoiser))
    expected = vectors @ dense_curvature(denoiser, batch, "ggn")
    torch.testing.assert_close(Curvature(samples, kind)(vectors, fitted), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_product_of_a_batch_is_the_mean_of_its_samples(problems, kind):
    denoiser, samples = problems[Convolutions]
    batch, product = everything(samples), Curvature(samples, kind)
    vectors = random_vectors(2, total(denoiser))
    alone = torch.stack([product(vectors, batch.sample(b)) for b in range(len(batch.t))])
    torch.testing.assert_close(product(vectors, batch), alone.mean(0))


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_together_give_what_each_gives_alone(problems, kind):
    denoiser, samples = problems[Attention]
    batch, product = everything(samples), Curvature(samples, kind)
    vectors = random_vectors(3, total(denoiser))
    vectors[2] = 2 * vectors[0] - vectors[1]
    together = product(vectors, batch)
    for vector, expected in zip(vectors, together, strict=True):
        torch.testing.assert_close(product(vector[None], batch)[0], expected)
    torch.testing.assert_close(together[2], 2 * together[0] - together[1])


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_that_nothing_depends_on_have_no_curvature(problems, kind):
    denoiser, samples = problems[Attention]
    unused = torch.cat(
        [
            torch.full((parameter.numel(),), name.startswith("unused"))
            for name, parameter in denoiser.attributed_parameters("all").items()
        ]
    )
    found = Curvature(samples, kind)(random_vectors(2, total(denoiser)), everything(samples))
    assert not found[:, unused].any()
    assert found[:, ~unused].norm() > 0.1
    only = torch.zeros(1, total(denoiser), dtype=torch.float64)
    only[:, unused] = 1
    assert not Curvature(samples, kind)(only, everything(samples)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_flags_and_gradients_of_the_parameters_stay_as_they_are(kind):
    denoiser = Small(seeded(Convolutions), (2, 3, 3))
    samples = small_samples(denoiser, 2)
    parameters = list(denoiser.module.parameters())
    for index, parameter in enumerate(parameters):
        parameter.requires_grad_(index % 2 == 0)
    flags = [parameter.requires_grad for parameter in parameters]
    vectors = random_vectors(1, total(denoiser))
    found = Curvature(samples, kind)(vectors, everything(samples))
    assert not found.requires_grad
    assert [parameter.requires_grad for parameter in parameters] == flags
    assert all(parameter.grad is None for parameter in parameters)
    torch.testing.assert_close(found, vectors @ dense_curvature(denoiser, everything(samples), kind))
    with pytest.raises(RuntimeError, match="sum exactly"):
        Curvature(samples, kind)(random_vectors(1, total(denoiser) + 1), everything(samples))
    assert [parameter.requires_grad for parameter in parameters] == flags


@pytest.mark.parametrize("kind", KINDS)
def test_products_under_no_grad_are_the_same(problems, kind):
    denoiser, samples = problems[Convolutions]
    vectors = random_vectors(2, total(denoiser))
    expected = Curvature(samples, kind)(vectors, everything(samples))
    with torch.no_grad():
        assert torch.equal(Curvature(samples, kind)(vectors, everything(samples)), expected)


@pytest.mark.parametrize("output", ["squared-norm", "mean", "weighted-loss"])
def test_other_outputs_than_the_loss_are_refused(problems, output):
    denoiser, _ = problems[Affine]
    source = LOSS.model_copy(update={"output": output})
    with pytest.raises(UsageError, match=output):
        Curvature(small_samples(denoiser, source=source), "ggn")


# --- on the UNet of the fixtures, which has convolutions, norms and attention


@pytest.fixture(scope="module")
def unet(tiny_denoiser):
    denoiser = copy.deepcopy(tiny_denoiser)
    denoiser.module.double()
    x, noise = torch.randn(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    t = torch.tensor([0, 500, 999])
    samples = NoisySamples(GradientSource(), denoiser, Split("train", small_items(3, (1, 8, 8))))
    return denoiser, samples, Batch(denoiser.noisy(x, noise, t), noise, t, {})


@pytest.mark.parametrize("kind", KINDS)
def test_products_of_a_unet_are_symmetric(unet, kind):
    denoiser, samples, batch = unet
    assert any("attentions" in name for name in samples.parameters)
    vectors = random_vectors(3, total(denoiser))
    found = Curvature(samples, kind)(vectors, batch) @ vectors.T
    torch.testing.assert_close(found, found.T, rtol=0, atol=1e-5 * float(found.abs().max()))
    if kind == "ggn":
        assert torch.linalg.eigvalsh((found + found.T) / 2)[0] > 0


def test_hessian_of_a_unet_is_the_slope_of_its_gradient(unet):
    denoiser, samples, batch = unet

    def gradient(shift):
        moved = copy.deepcopy(denoiser)
        moved.module.requires_grad_(True)
        with torch.no_grad():
            parts = shift.split([parameter.numel() for parameter in moved.module.parameters()])
            for parameter, part in zip(moved.module.parameters(), parts, strict=True):
                parameter += part.view_as(parameter)
        loss = (moved.predict(batch.noisy, batch.t, {}) - batch.target).square().mean()
        found = torch.autograd.grad(loss, list(moved.module.parameters()), allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in found])

    (vector,) = random_vectors(1, total(denoiser))
    eta = 1e-4
    slope = (gradient(eta * vector) - gradient(-eta * vector)) / (2 * eta)
    found = Curvature(samples, "hessian")(vector[None], batch)[0]
    assert (found - slope).norm() < 1e-3 * slope.norm()
