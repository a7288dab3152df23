"""Gram matrices of gradient rows for each layer: [n, n] between training items, [m, n] with queries.

Kernel methods and blockwise influence functions use them. Rows of unsketched gradients (`sketch=None`), or layers
sketched to at least their size, give the exact Gram matrix (of projected gradients, for sketches that project inputs).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from attrbench.features.views import TrainRows

ALL: Mapping[str, slice] = {"": slice(None)}
BAND_BYTES = 256 * 2**20
"""Bytes of rows held in memory at once, beside the block that is being read."""


def gram_blocks(
    rows: TrainRows, layers: Mapping[str, slice] = ALL, raw: bool = False
) -> dict[str, NDArray[np.float64]]:
    """Return layer name -> Gram matrix [n, n] of the training items' gradient rows, summed over timesteps.

    Args:
        rows: gradient rows of the training set; they need not fit into memory.
        layers: layer name -> columns of the row (`TrainRows.layers`); by default the whole row.
        raw: whether each timestep's unit-norm row is multiplied by its norm.
    """
    grams = {name: np.zeros((rows.count, rows.count)) for name in layers}
    for first, band in _bands(rows, raw):
        last = first + len(band)
        for start, block in _blocks(rows, raw):
            if start < last:  # the other half follows by symmetry
                stop = min(start + len(block), last)
                for name, columns in layers.items():
                    part = _products(band[:, :, columns], block[: stop - start, :, columns])
                    grams[name][first:last, start:stop] = part
                    grams[name][start:stop, first:last] = part.T
    return grams


def cross_gram_blocks(
    queries: NDArray[np.float32], rows: TrainRows, layers: Mapping[str, slice] = ALL, raw: bool = False
) -> dict[str, NDArray[np.float64]]:
    """Return layer name -> inner products [m, n] of query rows and training rows; `raw` applies to the latter."""
    grams = {name: np.zeros((len(queries), rows.count)) for name in layers}
    for start, block in _blocks(rows, raw):
        for name, columns in layers.items():
            grams[name][:, start : start + len(block)] = _products(queries[:, :, columns], block[:, :, columns])
    return grams


def _products(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the inner products [a, b] of [a, T, w] and [b, T, w] gradient rows in float64, for inversion."""
    total = np.zeros((len(left), len(right)))
    for t in range(left.shape[1]):
        total += left[:, t].astype(np.float64) @ right[:, t].astype(np.float64).T
    return total


def _blocks(rows: TrainRows, raw: bool) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for first, block in rows.blocks():
        yield first, block * rows.norms[first : first + len(block), :, None] if raw else block


def _bands(rows: TrainRows, raw: bool) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (first item, rows) in large blocks of at most `BAND_BYTES`, so that stored rows are read few times."""
    held: list[NDArray[np.float32]] = []
    start = 0
    for first, block in _blocks(rows, raw):
        if held and sum(part.nbytes for part in held) + block.nbytes > BAND_BYTES:
            yield start, np.concatenate(held)
            held, start = [], first
        held.append(block)
    if held:
        yield start, np.concatenate(held)
