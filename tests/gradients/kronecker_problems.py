"""Small networks with their Kronecker factors, and the explicit matrices that these are compared with.

Matrices are over vec(W) row by row, [o * i, o * i], a bias being a last column of W.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.gradients.curvature import kronecker
from tests.methods.in_memory import InTurn, Small, batch_gradients, everything, seeded, small_samples

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


def asked_and_train(samples, seed=0):
    """Two queries' random gradients and those of the samples, in single precision as a run has them."""
    train = batch_gradients(samples.denoiser, everything(samples))
    asked = torch.randn(2, train.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (asked * train.norm(dim=1).mean()).float(), train.float()
