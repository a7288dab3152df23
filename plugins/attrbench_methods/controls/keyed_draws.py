"""Random numbers of items as a function of seeds and the items' keys, whatever order or set the items are in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_STEP, _FIRST, _SECOND = (np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def key_numbers(keys: Sequence[str], *seeds: int) -> NDArray[np.uint64]:
    """Return 64 random bits for each key, [n], a hash of the seeds and the key."""
    return np.array([_number("/".join([*map(str, seeds), key])) for key in keys], np.uint64)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return numbers of equal shape that look random though the given ones may not, modulo 2^64.

    One step of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", figure 14).
    """
    z = numbers + _STEP
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))


def uniform(numbers: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Return random 64-bit numbers as float32 in [0, 1), of equal shape: multiples of 2^-24."""
    return (numbers >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
