"""Exhaustive inner-product search over gradient rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.method import ExhaustiveScorer, StateSize
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.views import TrainRows
from attrbench.search.vectors import query_vectors


class ExactSearch(ExhaustiveScorer):
    """tau(q, i) = sum over timesteps of <S g_q, S g_i>, over all items (DMin, arXiv 2412.08637, eq. 6).

    Args:
        rows: the training rows.
        feature: of the queries.
        normalize: whether each timestep's gradient has unit norm.
    """

    def __init__(self, rows: TrainRows, feature: GradientRows, normalize: bool) -> None:
        self._rows = rows
        self._feature = feature
        self._normalize = normalize

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """[m, n] inner products: one read of the memory-mapped shards for all m queries."""
        vectors = query_vectors(query[self._feature], self._normalize)
        scores = np.empty((len(vectors), self._rows.count), np.float32)
        for first, block in self._rows.blocks():
            scores[:, first : first + len(block)] = self._products(vectors, block, first)
        return scores

    def rescore(self, query: QueryFeatures, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """[len(items)] inner products of one query with these items only, read from the store."""
        vectors = query_vectors(query[self._feature], self._normalize)
        block = self._rows.take(items)
        norms = None if self._normalize else self._rows.norms[items]
        return _products(vectors, block, norms).ravel()

    def _products(self, vectors: NDArray[np.float32], block: NDArray[np.float32], first: int) -> NDArray[np.float32]:
        return _products(vectors, block, None if self._normalize else self._rows.norms[first : first + len(block)])

    def size(self) -> StateSize:
        """The rows; raw gradients also need their norms."""
        return StateSize(rows=rows_bytes(self._rows, self._normalize))


def _products(
    vectors: NDArray[np.float32], block: NDArray[np.float32], norms: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """[m, items] inner products; norms ([items, T]) go on the products, not on a copy of the rows."""
    if norms is None:
        whole: NDArray[np.float32] = vectors @ block.reshape(len(block), -1).T
        return whole
    width = block.shape[2]
    parts = (vectors[:, t * width : (t + 1) * width] @ block[:, t].T * norms[:, t] for t in range(block.shape[1]))
    total: NDArray[np.float32] = np.add.reduce(list(parts))
    return total


def rows_bytes(rows: TrainRows, normalize: bool) -> int:
    """Bytes of n rows as they are stored; raw gradients also need their T norms."""
    return rows.count * (rows.row_bytes + (0 if normalize else 4 * rows.norms.shape[1]))
