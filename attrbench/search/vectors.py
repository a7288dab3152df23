"""Gradient rows as vectors: normalized, or raw."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.feature import QueryFeatures, Rows


def train_vectors(rows: Rows, normalize: bool) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yields (first item, [items, T * v] vectors): as stored where `normalize`, else each timestep times its norm."""
    for first, block in rows.blocks():
        if not normalize:
            block = block * rows.norms[first : first + len(block), :, None]
        yield first, block.reshape(len(block), -1)


def query_vectors(query: QueryFeatures, normalize: bool) -> NDArray[np.float32]:
    """[m, T * v] vectors of the queries, likewise."""
    assert query.rows is not None and query.norms is not None
    rows = query.rows if normalize else query.rows * query.norms[:, :, None]
    return np.ascontiguousarray(rows.reshape(len(rows), -1), dtype=np.float32)
