"""Inner products of query vectors with int8 rows by integer arithmetic, without decoding the rows.

A query is written as three int8 numbers a component, q = s (a + b/254 + c/254^2) with one scale s for each group of
numbers that the rows have a scale for. That is 24 bits, as many as float32 has: the products are then exact integers,
and less is rounded than where decoded rows are multiplied in float32. Memory is read once, as int8.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.store.encoding import SCALED

PARTS = 3
STEP = 254.0
"""A part has values from -127 to 127; the rest of a number, at most half a step, is spread over the next part's."""


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
        parts: for each timestep and group the queries' numbers, [numbers of the group, 3 m] int8, in Fortran order.
        scales: [T * G, m] scale of each query in each group.
        columns: first column and number of columns of each group in a row of T * w numbers.
    """

    parts: list[torch.Tensor]
    scales: torch.Tensor
    columns: list[tuple[int, int]]

    @classmethod
    def of(cls, vectors: NDArray[np.float32], steps: int) -> IntegerQueries:
        """Return [m, T * w] query vectors, which must be finite, split into int8 parts by timestep and group."""
        rows = torch.from_numpy(vectors)
        width = rows.shape[1] // steps
        columns = [
            (step * width + start, min(SCALED, width - start))
            for step in range(steps)
            for start in range(0, width, SCALED)
        ]
        split = [_split(rows.narrow(1, *place)) for place in columns]
        return cls([parts for parts, _ in split], torch.stack([scale for _, scale in split]), columns)

    def products(self, codes: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the [m, k] inner products with rows stored as int8.

        Args:
            codes: [k, T, w] numbers of the rows.
            scales: [k, T, G] scales of their groups.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # rows are mapped from a file that can't be written to; nobody does
            rows = torch.from_numpy(codes.reshape(len(codes), -1))
        weights = torch.from_numpy(np.ascontiguousarray(scales.reshape(len(codes), -1).T))  # [T * G, k]
        queries = self.scales.shape[1]
        whole = torch.empty(len(self.columns), len(codes), PARTS * queries, dtype=torch.int32)
        for place, parts, out in zip(self.columns, self.parts, whole.unbind(0), strict=True):
            torch._int_mm(rows.narrow(1, *place), parts, out=out)
        first, second, third = whole.view(len(self.columns), len(codes), PARTS, queries).float().unbind(2)
        sums = (third / STEP + second) / STEP + first  # [T * G, k, m]
        result: NDArray[np.float32] = torch.einsum("gkm,gm,gk->mk", sums, self.scales, weights).numpy()
        return result


def _split(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the int8 parts [numbers, 3 m] of one group of queries' numbers [m, numbers], and the scales [m]."""
    scale = values.abs().amax(dim=1) / 127
    rest = values.double() / torch.where(scale == 0, torch.ones_like(scale), scale).double()[:, None]
    parts = []
    for _ in range(PARTS):
        parts.append(rest.round().clamp(-127, 127))
        rest = (rest - parts[-1]) * STEP
    return torch.cat(parts).to(torch.int8).t(), scale
