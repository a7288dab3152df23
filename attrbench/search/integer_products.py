"""Inner products of query vectors with int8 rows by integer arithmetic, without decoding the rows.

A query is written as three int8 numbers a component, q = s (a + b/254 + c/254^2) with one scale s for each group of
numbers that the rows have a scale for. That is 24 bits, as many as float32 has: the products are then exact integers,
and less is rounded than where decoded rows are multiplied in float32. Memory is read once, as int8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numkong
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from attrbench.store.encoding import SCALED, Codes

PARTS = 3
STEP = 254.0
"""A part has values from -127 to 127; the rest of a number, at most half a step, is spread over the next part's."""


COLUMNS = 16
"""Columns up to which a product takes no longer than with fewer: groups of few queries are multiplied together."""


@dataclass(frozen=True)
class IntegerQueries:
    """Query vectors as int8 numbers, ready to be multiplied with int8 rows.

    Attributes:
        parts: for each product the queries' numbers, [groups * 3 m, numbers of its groups] int8, in the order in which
            NumKong reads them; those of several groups are blocks on the diagonal, so that one product yields the sums
            of each.
        scales: [T * groups, m] scale of each query in each group of a timestep.
        columns: of each product, in a row of T * w numbers.
    """

    parts: list[numkong.PackedMatrix]
    scales: NDArray[np.float32]
    columns: list[slice]

    @classmethod
    def of(cls, vectors: NDArray[np.float32], steps: int) -> IntegerQueries:
        """Return [m, T * w] query vectors, which must be finite, split into int8 parts by timestep and group."""
        width = vectors.shape[1] // steps
        sizes = [min(SCALED, width - start) for start in range(0, width, SCALED)] * steps
        starts, ends = [0, *accumulate(sizes[:-1])], [*accumulate(sizes)]
        largest: NDArray[np.float32] = np.maximum.reduceat(np.abs(vectors), starts, axis=1)  # [m, T * groups]
        scales = largest / np.float32(127)
        parts = _split(vectors / np.repeat(np.where(scales == 0, 1, scales), sizes, axis=1).astype(np.float64))
        most = max(1, COLUMNS // (PARTS * len(vectors)))
        together = max(count for count in range(1, most + 1) if len(sizes) % count == 0)
        groups = [parts[:, start:end] for start, end in zip(starts, ends, strict=True)]
        firsts = range(0, len(groups), together)
        return cls(
            [numkong.dots_pack(block_diag(*groups[first : first + together]), dtype="int8") for first in firsts],
            scales.T,
            [slice(starts[first], ends[first + together - 1]) for first in firsts],
        )

    def products(self, blocks: Sequence[Codes]) -> NDArray[np.float32]:
        """Return the [m, k] inner products with rows stored as int8, in several blocks of [rows, T, w] numbers.

        It runs on one thread, and others can run meanwhile.
        """
        count = sum(len(block.numbers) for block in blocks)
        groups, queries = self.scales.shape
        whole = np.empty((len(self.parts), count, groups // len(self.parts) * PARTS * queries), np.int32)
        tables = [numkong.from_dlpack(table) for table in whole]
        start = 0
        for block in blocks:
            stop = start + len(block.numbers)
            rows = np.ascontiguousarray(block.numbers).reshape(stop - start, -1)  # a memmap is slow to slice
            for columns, parts, table in zip(self.columns, self.parts, tables, strict=True):
                numkong.dots_packed(rows[:, columns], parts, out=table[start:stop])  # type: ignore[arg-type]  # its stub errs
            start = stop
        by_part = np.ascontiguousarray(whole.transpose(1, 0, 2), np.float32).reshape(count, groups, PARTS, queries)
        sums = by_part[:, :, 2] / STEP
        sums += by_part[:, :, 1]
        sums /= STEP
        sums += by_part[:, :, 0]
        sums *= self.scales
        weights = np.concatenate([np.asarray(block.scales) for block in blocks]).reshape(count, -1)
        result: NDArray[np.float32] = np.einsum("kgm,kg->mk", sums, weights)
        return result


def _split(numbers: NDArray[np.float64]) -> NDArray[np.int8]:
    """Return three parts, [3 m, numbers], of [m, numbers] numbers from -127 to 127."""
    parts = []
    for _ in range(PARTS):
        parts.append(numbers.round().clip(-127, 127))
        numbers = (numbers - parts[-1]) * STEP
    return np.concatenate(parts).astype(np.int8)
