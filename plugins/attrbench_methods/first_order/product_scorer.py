"""Scorer for gradient inner products that were computed on the fly, for methods that store no gradients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.method import ExhaustiveScorer, StateSize
from attrbench.features.gradient_products import GradientProducts


class ProductScorer(ExhaustiveScorer):
    """Scorer that sums inner products of query and training gradients over timesteps, as cosines on request.

    tau = sum over t of <g_q^t, g_i^t>, each divided by the norms of the two gradients if `normalize`.

    Args:
        feature: the products.
        normalize: whether each timestep's gradients count with unit norm.
    """

    def __init__(self, feature: GradientProducts, normalize: bool) -> None:
        self._feature = feature
        self._normalize = normalize
        self._bytes_if_kept: int | None = None

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the [m, n] scores: inner products of gradients of m queries and n items, summed over timesteps."""
        products = query[self._feature]
        self._bytes_if_kept = products.bytes_if_kept
        values = products.values.astype(np.float64)
        if self._normalize:
            norms = products.query_norms[:, None, :].astype(np.float64) * products.train_norms[None, :, :]
            values = np.divide(values, norms, out=np.zeros_like(values), where=norms > 1e-24)
        scores: NDArray[np.float32] = values.sum(axis=2).astype(np.float32)
        return scores

    def size(self) -> StateSize:
        """Return 0 stored bytes, and as `rows_if_kept` what storing all whole training gradients would take."""
        return StateSize(rows_if_kept=self._bytes_if_kept)
