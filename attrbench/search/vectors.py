"""Gradient rows as vectors: normalized, or raw."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from attrbench.features.views import QueryRows, TrainRows


def train_vectors(rows: TrainRows, normalize: bool) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (first item, [items, T * v] vectors): as stored where `normalize`, else each timestep times its norm."""
    for first, block in rows.blocks():
        if not normalize:
            block = block * rows.norms[first : first + len(block), :, None]
        yield first, block.reshape(len(block), -1)


def query_vectors(query: QueryRows, normalize: bool) -> NDArray[np.float32]:
    """Return the [m, T * v] vectors of the queries, likewise."""
    rows = query.rows if normalize else query.raw
    return np.ascontiguousarray(rows.reshape(len(rows), -1), dtype=np.float32)
