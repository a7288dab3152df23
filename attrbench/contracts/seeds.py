"""Seeds of random draws: the numbers that are taken as one, as an option's type and as a check."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from attrbench.errors import UsageError

LARGEST_SEED = 2**63 - 1
"""Larger numbers would be taken modulo a power of two by generators, and so stand for another seed."""

Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
"""Type of an option that is a seed: 0 to 2^63 - 1."""


def is_seed(seed: int) -> bool:
    """Return whether a number can be a seed: from 0 to 2^63 - 1."""
    return 0 <= seed <= LARGEST_SEED


def check_seed(seed: int, name: str) -> None:
    """Raise an error for a number that is no seed; `name` is the option that gives it.

    Raises:
        UsageError: one line with the bounds.
    """
    if not is_seed(seed):
        raise UsageError(f"{name} {seed}: a seed is a whole number from 0 to {LARGEST_SEED} (2^63 - 1)")
