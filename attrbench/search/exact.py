"""Exhaustive search: scores of all training items as inner products of their gradient rows with the query's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.method import ExhaustiveScorer, StateSize
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.views import TrainRows
from attrbench.search.integer_products import IntegerQueries
from attrbench.search.vectors import query_vectors
from attrbench.store.encoding import Codes

TOGETHER = 32
"""Queries that are multiplied with int8 rows at once, so that what is between stays in the processor's cache."""
PRODUCTS = 2048
"""Products of int8 rows and queries that a thread sums up at once: fewer take longer than the products themselves."""


class ExactSearch(ExhaustiveScorer):
    """A scorer of all items by inner products of sketched gradients, summed over timesteps.

    tau(q, i) = sum over t of <S g_q,t, S g_i,t> (Lin et al. 2024, "DMin", arXiv:2412.08637, eq. 6).

    Args:
        rows: gradient rows of the training set.
        feature: the feature of the query rows.
        normalize: whether gradients are scaled to unit norm at each timestep.
    """

    def __init__(self, rows: TrainRows, feature: GradientRows, normalize: bool) -> None:
        self._rows = rows
        self._feature = feature
        self._normalize = normalize

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the [m, n] scores, inner products of query and training gradients; stored rows are read once.

        Rows stored as int8 are multiplied as integers, once for 32 queries each.
        """
        vectors = query_vectors(query[self._feature], self._normalize)
        _, steps, _ = query[self._feature].rows.shape
        if np.isfinite(vectors).all() and self._rows.codes() is not None:
            parts = range(0, len(vectors), TOGETHER)
            return np.concatenate([self._by_integers(vectors[first : first + TOGETHER], steps) for first in parts])
        scores = np.empty((len(vectors), self._rows.count), np.float32)
        for first, block in self._rows.blocks():
            scores[:, first : first + len(block)] = self._products(vectors, block, first)
        return scores

    def _by_integers(self, vectors: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
        """Return the [m, n] scores of query vectors of T steps against rows that are stored as int8."""
        queries, count = IntegerQueries.of(vectors, steps), torch.get_num_threads()
        found: list[NDArray[np.float32]] = []
        with ThreadPoolExecutor(count) as threads:
            at_work: deque[Future[NDArray[np.float32]]] = deque()
            rounds = -(-self._rows.count * len(vectors) // (PRODUCTS * count))
            for blocks in self._stored(self._rows.count // (rounds * count)):
                at_work.append(threads.submit(queries.products, blocks))
                if len(at_work) > 2 * count:  # so that few shards are open at once
                    found.append(at_work.popleft().result())
            found += [part.result() for part in at_work]
        return np.concatenate(found, axis=1)

    def _stored(self, least: int) -> Iterator[list[Codes]]:
        """Yield the rows as int8 stores them, in lists of blocks of at least so many rows but for the last."""
        waiting: list[Codes] = []
        count = 0
        for first, block in self._rows.codes() or ():
            if not self._normalize:
                norms = self._rows.norms[first : first + len(block.numbers), :, None]
                block = Codes(block.numbers, block.scales * norms)
            waiting.append(block)
            count += len(block.numbers)
            if count >= least:
                yield waiting
                waiting, count = [], 0
        if waiting:
            yield waiting

    def rescore(self, query: QueryFeatures, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the exact scores of one query for these training items only, [len(items)], for re-ranking."""
        vectors = query_vectors(query[self._feature], self._normalize)
        block = self._rows.take(items)
        norms = None if self._normalize else self._rows.norms[items]
        return _products(vectors, block, norms).ravel()

    def _products(self, vectors: NDArray[np.float32], block: NDArray[np.float32], first: int) -> NDArray[np.float32]:
        return _products(vectors, block, None if self._normalize else self._rows.norms[first : first + len(block)])

    def size(self) -> StateSize:
        """Return the method's storage: bytes of the gradient rows, with norms unless gradients are normalized."""
        return StateSize(rows=rows_bytes(self._rows, self._normalize))


def _products(
    vectors: NDArray[np.float32], block: NDArray[np.float32], norms: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Return the [m, items] inner products of query vectors and gradient rows, times the rows' norms if given."""
    if norms is None:
        whole: NDArray[np.float32] = vectors @ block.reshape(len(block), -1).T
        return whole
    width = block.shape[2]
    parts = (vectors[:, t * width : (t + 1) * width] @ block[:, t].T * norms[:, t] for t in range(block.shape[1]))
    total: NDArray[np.float32] = np.add.reduce(list(parts))
    return total


def rows_bytes(rows: TrainRows, normalize: bool) -> int:
    """Return the storage in bytes of n gradient rows, with their T norms unless gradients are normalized."""
    return rows.count * (rows.row_bytes + (0 if normalize else 4 * rows.norms.shape[1]))
