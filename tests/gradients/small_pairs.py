"""A small network whose pairs of item and timestep can be listed, and sources of its gradients."""

import pytest
import torch
from torch import nn

from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.store.shards import Unit
from tests.methods.in_memory import Small, seeded

SHAPE = (2, 3, 3)
COUNT, STEPS = 6, 3
ALL = Unit(0, COUNT)


def network():
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 1))


@pytest.fixture(scope="module")
def denoiser():
    return Small(seeded(network), SHAPE)


def source_of(kind="uniform", noise="per-item", output="loss", **grid):
    return GradientSource(output=output, grid=TimestepGrid(kind=kind, **{"steps": STEPS, **grid}), noise=noise)


def assert_same_batch(found, expected):
    for name in ("noisy", "target", "t"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
