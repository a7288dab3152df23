"""Conversion of gradient rows [T, v] to search vectors [T * v], with or without their norms."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from attrbench.features.views import QueryRows, TrainRows


def train_vectors(rows: TrainRows, normalize: bool) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the training rows as (first item, [items, T * v] vectors), times their norms unless `normalize`."""
    for first, block in rows.blocks():
        if not normalize:
            block = block * rows.norms[first : first + len(block), :, None]
        yield first, block.reshape(len(block), -1)


def query_vectors(query: QueryRows, normalize: bool) -> NDArray[np.float32]:
    """Return the queries' gradient rows as [m, T * v] search vectors, times their norms unless `normalize`."""
    rows = query.rows if normalize else query.raw
    return np.ascontiguousarray(rows.reshape(len(rows), -1), dtype=np.float32)
