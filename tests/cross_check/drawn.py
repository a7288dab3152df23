"""A layer or two with drawn weights and data: what a reproduction needs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from tests.cross_check.problems import Data

TRAIN, QUERIES = 24, 4


def drawn(make: Callable[[], nn.Module], shape: tuple[int, ...] = ()) -> tuple[nn.Module, Data, Data]:
    """The module, 24 training items and 4 queries; without a shape, items are vectors as the first layer wants them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = make()
        first = next(module.parameters())
        noisy = torch.randn(TRAIN + QUERIES, *(shape or (first.shape[1],)))
        noisy = noisy * torch.linspace(0.3, 2.0, noisy.shape[-1])
        target = torch.randn_like(module(noisy).detach())
    return module, Data(noisy[:TRAIN], target[:TRAIN]), Data(noisy[TRAIN:], target[TRAIN:])
