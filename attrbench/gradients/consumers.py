"""What becomes of per-sample gradients inside the backward pass: norms, sketches, whole rows, inner products.

A consumer takes each parameter's gradients of a batch as they come, and is asked for its result when the batch
is through. No consumer keeps a gradient unless keeping it is its purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from attrbench.gradients.sketch import Sketcher


class Consumer(Protocol):
    """Takes the gradients of a batch of B pairs, parameter by parameter."""

    def start(self, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """A batch begins; `timesteps` is [B] indices into the grid."""

    def add(self, offset: int, gradients: Tensor) -> None:
        """Coordinates offset .. offset + w of the batch's gradients, [B, w]."""


class Norms:
    """L2 norms of whole gradients, accumulated in float64."""

    def start(self, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """See `Consumer`."""
        self._squares = torch.zeros(len(timesteps), dtype=torch.float64, device=device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """See `Consumer`."""
        self._squares += torch.linalg.vector_norm(gradients, dim=1).double().square()

    def result(self) -> Tensor:
        """[B] float64 norms."""
        return self._squares.sqrt()


class Sketches:
    """Sketches of several lengths under one seed, in one pass."""

    def __init__(self, lengths: Sequence[int], seed: int) -> None:
        self._sketcher = Sketcher(lengths, seed)

    def start(self, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """See `Consumer`."""
        self._sketcher.start(len(timesteps), dtype, device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """See `Consumer`."""
        self._sketcher.add(offset, gradients)

    def result(self, length: int) -> Tensor:
        """[B, length] sketches."""
        return self._sketcher.result(length)


class Whole:
    """The gradients themselves, [B, p]."""

    def __init__(self, total: int) -> None:
        self._total = total

    def start(self, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """See `Consumer`."""
        self._rows = torch.zeros(len(timesteps), self._total, dtype=dtype, device=device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """See `Consumer`."""
        self._rows[:, offset : offset + gradients.shape[1]] = gradients

    def result(self) -> Tensor:
        """[B, p] gradients."""
        return self._rows


class InnerProducts:
    """Inner products with the queries' gradients at the same timestep.

    Args:
        queries: [T, m, p] whole gradients of the queries.
    """

    def __init__(self, queries: Tensor) -> None:
        self._queries = queries

    def start(self, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """See `Consumer`."""
        self._members = [(t, torch.nonzero(timesteps == t).squeeze(1)) for t in timesteps.unique().tolist()]
        self._products = torch.zeros(len(timesteps), self._queries.shape[1], dtype=dtype, device=device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """See `Consumer`."""
        for t, members in self._members:
            other = self._queries[t, :, offset : offset + gradients.shape[1]]
            mine = gradients if len(members) == len(gradients) else gradients[members]
            self._products[members] += mine @ other.T

    def result(self) -> Tensor:
        """[B, m] inner products."""
        return self._products
