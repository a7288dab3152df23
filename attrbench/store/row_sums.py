"""Checksums of single rows of a shard, so that a few rows can be read and compared without reading all of the shard."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def row_sums(arrays: Mapping[str, NDArray[Any]], rows: Iterable[int]) -> list[int]:
    """Return for each of these rows the CRC-32 over its numbers in all arrays, their names, types and shapes.

    Args:
        arrays: name -> array whose first dimension are the rows.
        rows: indices of rows.
    """
    sums = []
    for row in rows:
        total = 0
        for name in sorted(arrays):
            numbers = np.ascontiguousarray(arrays[name][row])
            total = zlib.crc32(f"{name} {numbers.dtype.str} {numbers.shape}".encode(), total)
            total = zlib.crc32(numbers.tobytes(), total)
        sums.append(total)
    return sums
