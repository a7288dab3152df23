"""Reference sketches (random linear compressions): DMin's permutation sketch, and dense random projections.

All are linear and unbiased, E<Sx, Sy> = <x, y>. The rotation sketch is compared with them: the permutation stores 5
bytes for each parameter and holds the whole gradient; dense projections cost p * v multiplications a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from attrbench.models.noise import seed_of

COLUMNS = 256  # coordinates whose part of a dense projection is drawn at once


def padded(total: int, length: int) -> int:
    """Return D = v * ceil(p / v), the length to which vectors of p numbers are padded before a sketch to v."""
    return length * -(-total // length)


class PermutationSketcher:
    """The permutation sketch of DMin (Lin et al. 2024, arXiv:2412.08637, section 3.2), with the released code's draws.

    S(x)_j is the sum over bucket j of r_a * x_pi(a), with random signs r and a random permutation pi.
    D signs and then a permutation of D, from torch's CPU generator under `seed` (42 in the released code), with
    D = v * ceil(p / v) for each length on its own. The code keeps 16 bytes a parameter; here an int32 and an int8.
    """

    def __init__(self, lengths: Sequence[int], seed: int, total: int) -> None:
        self._total = total
        self._drawn: dict[int, tuple[Tensor, Tensor]] = {}
        for length in lengths:
            size = padded(total, length)
            generator = torch.Generator().manual_seed(seed)
            signs = torch.randint(0, 2, (size,), generator=generator).mul_(2).sub_(1).to(torch.int8)
            self._drawn[length] = (torch.randperm(size, generator=generator).to(torch.int32), signs)
        self._vectors = torch.empty(0)

    def start(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        """Allocate zeros for a batch of `size` whole vectors, which are sketched at the end."""
        self._vectors = torch.zeros(size, self._total, dtype=dtype, device=device)

    def add(self, offset: int, piece: Tensor) -> None:
        """Add coordinates offset .. offset + w to the whole vectors in memory; `piece` is [B, w]."""
        self._vectors[:, offset : offset + piece.shape[1]] += piece

    def result(self, length: int) -> Tensor:
        """Return the [B, v] sketches: permuted coordinates times random signs, summed in v buckets."""
        permutation, signs = (drawn.to(self._vectors.device) for drawn in self._drawn[length])
        vectors = torch.nn.functional.pad(self._vectors, (0, len(signs) - self._total))
        shuffled = vectors.index_select(1, permutation) * signs
        return shuffled.reshape(len(shuffled), length, -1).sum(2)


class DenseSketcher:
    """A dense random projection of vectors to v numbers, S(x) = P x / sqrt(v) (Johnson and Lindenstrauss 1984).

    The entries of P are independent random signs (`rademacher`) or standard normals (`gaussian`).
    """

    def __init__(self, lengths: Sequence[int], seed: int, form: Literal["rademacher", "gaussian"]) -> None:
        self._lengths = tuple(lengths)
        self._seed = seed
        self._form = form
        self._sums: dict[int, Tensor] = {}

    def start(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        """Reset the projections to zero for a batch of `size` vectors."""
        self._sums = {length: torch.zeros(size, length, dtype=dtype, device=device) for length in self._lengths}

    def add(self, offset: int, piece: Tensor) -> None:
        """Add the projection of coordinates offset .. offset + w of every vector; `piece` is [B, w]."""
        end = offset + piece.shape[1]
        for length, sums in self._sums.items():
            for block in range(offset // COLUMNS, -(-end // COLUMNS)):
                low, high = max(offset, block * COLUMNS), min(end, (block + 1) * COLUMNS)
                columns = self._columns(length, block)[low - block * COLUMNS : high - block * COLUMNS]
                sums += piece[:, low - offset : high - offset] @ columns.to(piece.device, piece.dtype)

    def _columns(self, length: int, block: int) -> Tensor:
        """Return [COLUMNS, v] random rows of the scaled transpose of P, drawn on the CPU, whatever the device."""
        generator = torch.Generator().manual_seed(seed_of("dense sketch", self._form, self._seed, length, block))
        shape = (COLUMNS, length)
        if self._form == "gaussian":
            drawn = torch.randn(shape, generator=generator)
        else:
            drawn = torch.randint(0, 2, shape, generator=generator).float() * 2 - 1
        scaled: Tensor = drawn / length**0.5
        return scaled

    def result(self, length: int) -> Tensor:
        """Return the [B, v] dense random projections of the vectors that were added since `start`."""
        return self._sums[length]
