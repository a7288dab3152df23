"""Conversion of gradient rows [T, v] to search vectors [T * v], with or without their norms."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from attrbench.features.views import QueryRows, TrainRows


def flat(rows: NDArray[np.float32], fold: int = 1) -> NDArray[np.float32]:
    """Return gradient rows [k, T, v] as vectors [k, T * v / fold], each timestep's row folded into a shorter sketch.

    Folding adds up `fold` stretches of a row. Of a sketch that is one of v / fold numbers: the same coordinates under
    the same random signs, more of which meet (as `attrbench.gradients.sketching.rotation` folds its own).

    Args:
        rows: the rows.
        fold: must divide v.
    """
    count, steps, width = rows.shape
    if fold > 1:
        rows = rows.reshape(count, steps, fold, width // fold).sum(axis=2)
    return rows.reshape(count, -1)


def train_vectors(rows: TrainRows, normalize: bool, fold: int = 1) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the training rows as (first item, [items, T * v / fold] vectors), times their norms unless `normalize`."""
    for first, block in rows.blocks():
        if not normalize:
            block = block * rows.norms[first : first + len(block), :, None]
        yield first, flat(block, fold)


def query_vectors(query: QueryRows, normalize: bool, fold: int = 1) -> NDArray[np.float32]:
    """Return queries' gradient rows as [m, T * v / fold] search vectors, times their norms unless `normalize`."""
    return np.ascontiguousarray(flat(query.rows if normalize else query.raw, fold), dtype=np.float32)
