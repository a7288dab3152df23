"""Inner products of query vectors with int8 rows by integer arithmetic, without decoding the rows.

A query is written as three int8 numbers a component, q = s (a + b/254 + c/254^2) with one scale s for each group of
numbers that the rows have a scale for. That is 24 bits, as many as float32 has: the products are then exact integers,
and less is rounded than where decoded rows are multiplied in float32. Memory is read once, as int8.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.store.encoding import SCALED, Codes

PARTS = 3
STEP = 254.0
"""A part has values from -127 to 127; the rest of a number, at most half a step, is spread over the next part's."""


COLUMNS = 24
"""Columns up to which a product takes no longer than with fewer: groups of few queries are multiplied together."""
EVEN = 16
"""Rows whose length is a multiple of this are multiplied as integers; PyTorch 2.13 errs with groups of one number."""


def are_integers_fast(width: int) -> bool:
    """Return whether to multiply int8 rows of a length as integers.

    It takes a processor with instructions for it (VNNI) and a PyTorch that can use them.
    """
    if width % EVEN:
        return False
    has_vnni = getattr(torch.cpu, "_is_vnni_supported", None)
    return hasattr(torch, "_int_mm") and has_vnni is not None and bool(has_vnni())


@dataclass(frozen=True)
class IntegerQueries:
    """Query vectors as int8 numbers, ready to be multiplied with int8 rows.

    Attributes:
        parts: for each product the queries' numbers in Fortran order, [numbers of its groups, groups * 3 m] int8; those
            of several groups are blocks on the diagonal, so that one product yields the sums of each.
        scales: [products, groups, m] scale of each query in each group of a timestep.
        columns: number of columns of each product in a row of T * w numbers.
    """

    parts: list[torch.Tensor]
    scales: torch.Tensor
    columns: list[int]

    @classmethod
    def of(cls, vectors: NDArray[np.float32], steps: int) -> IntegerQueries:
        """Return [m, T * w] query vectors, which must be finite, split into int8 parts by timestep and group."""
        rows = torch.from_numpy(vectors)
        width = rows.shape[1] // steps
        sizes = [min(SCALED, width - start) for start in range(0, width, SCALED)] * steps
        split = [_split(part) for part in rows.split(sizes, dim=1)]
        most = max(1, COLUMNS // (PARTS * len(vectors)))
        together = max(size for size in range(1, most + 1) if len(split) % size == 0)
        groups = [split[first : first + together] for first in range(0, len(split), together)]
        return cls(
            [torch.block_diag(*(parts for parts, _ in group)).t() for group in groups],
            torch.stack([torch.stack([scale for _, scale in group]) for group in groups]),
            [sum(sizes[first : first + together]) for first in range(0, len(sizes), together)],
        )

    def products(self, blocks: Sequence[Codes]) -> NDArray[np.float32]:
        """Return the [m, k] inner products with rows stored as int8, in several blocks of [rows, T, w] numbers."""
        (products, groups, queries), count = self.scales.shape, sum(len(block.numbers) for block in blocks)
        whole = torch.empty(products, count, groups * PARTS * queries, dtype=torch.int32)
        start = 0
        for block in blocks:
            stop = start + len(block.numbers)
            pieces = _flat(block.numbers).split(self.columns, dim=1)
            for piece, parts, out in zip(pieces, self.parts, whole[:, start:stop].unbind(0), strict=True):
                torch._int_mm(piece, parts, out=out)
            start = stop
        first, second, third = whole.view(products, count, groups, PARTS, queries).float().unbind(3)
        sums = (third / STEP + second) / STEP + first  # [products, k, groups, m]
        weights = np.concatenate([block.scales.reshape(len(block.scales), -1) for block in blocks])  # [k, T * G]
        by_product = torch.from_numpy(weights).view(count, products, groups)
        result: NDArray[np.float32] = torch.einsum("pkgm,pgm,kpg->mk", sums, self.scales, by_product).numpy()
        return result


def _flat(numbers: NDArray[np.int8]) -> torch.Tensor:
    """Return rows of [T, w] numbers as a tensor of flat rows, without a copy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are mapped from a file that can't be written to; nobody does
        return torch.from_numpy(numbers.reshape(len(numbers), -1))


def _split(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the int8 parts [3 m, numbers] of one group of queries' numbers [m, numbers], and the scales [m]."""
    scale = values.abs().amax(dim=1) / 127
    rest = values.double() / torch.where(scale == 0, torch.ones_like(scale), scale).double()[:, None]
    parts = []
    for _ in range(PARTS):
        parts.append(rest.round().clamp(-127, 127))
        rest = (rest - parts[-1]) * STEP
    return torch.cat(parts).to(torch.int8), scale
