"""Exhaustive inner-product search over gradient rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attrbench.features import QueryFeatures, Rows
from attrbench.method import ExhaustiveScorer, StateSize
from attrbench.retrieval.rows import query_vectors


class ExactSearch(ExhaustiveScorer):
    """tau(q, i) = sum over timesteps of <S g_q, S g_i>, over all items (methods-spec 6.1).

    Args:
        rows: the training rows.
        normalise: whether each timestep's gradient has unit norm.
    """

    def __init__(self, rows: Rows, normalise: bool) -> None:
        self._rows = rows
        self._normalise = normalise

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """[m, n] inner products, block by block from the memory-mapped shards."""
        vectors = query_vectors(query, self._normalise)
        scores = np.empty((len(vectors), self._rows.count), np.float32)
        for first, block in self._rows.blocks():
            last = first + len(block)
            if self._normalise:
                scores[:, first:last] = vectors @ block.reshape(len(block), -1).T
            else:  # the norms go on the products, not on a copy of the rows
                products = vectors.reshape(len(vectors), *block.shape[1:]).transpose(1, 0, 2) @ block.transpose(1, 2, 0)
                scores[:, first:last] = (products * self._rows.norms[first:last].T[:, None, :]).sum(axis=0)
        return scores

    def size(self) -> StateSize:
        """The rows, and the sketch's seed."""
        return StateSize(rows=rows_bytes(self._rows, self._normalise), shared=SEED_BYTES)


SEED_BYTES = 8
"""All the shared state that a sketch has."""


def rows_bytes(rows: Rows, normalise: bool) -> int:
    """Bytes of n rows of T * v float32; raw gradients also need their T norms."""
    return 4 * rows.count * (rows.width + (0 if normalise else rows.norms.shape[1]))
