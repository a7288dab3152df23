"""Noise as a pure function of seed, item and timestep, independent of batch, order and device."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from attrbench.contracts.gradient_source import GradientSource


def seed_of(*parts: object) -> int:
    """Return a 63-bit random seed from a hash of any values, equal in all processes and on all platforms."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def gaussian(shape: Sequence[int], *parts: object) -> torch.Tensor:
    """Return standard normal noise of `shape`, seeded by `parts` and drawn on the CPU for equality on all devices."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed_of(*parts)))


def feature_noise(
    source: GradientSource, key: str, timestep: float, shape: Sequence[int], draw: int = 0
) -> torch.Tensor:
    """Return the noise with which an item is differentiated at `timestep`, by the source's policy.

    Args:
        source: whose policy.
        key: the item's (`Items.keys`); per-item noise is a function of the item's content, wherever it stands.
        timestep: in the network's units.
        shape: of the noise.
        draw: tells apart the occurrences of one timestep in grids of random draws.

    Returns:
        A tensor of `shape` (one item, without batch dimension), on the CPU.
    """
    if source.noise == "shared":
        return gaussian(shape, "noise", source.noise_seed)
    again = (f"draw {draw}",) if draw else ()
    if source.noise == "per-timestep":
        return gaussian(shape, "noise", source.noise_seed, timestep, *again)
    return gaussian(shape, "noise", source.noise_seed, timestep, key, *again)
