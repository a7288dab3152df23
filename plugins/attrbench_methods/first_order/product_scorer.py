"""Scoring from inner products that were taken while the training set passed by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.method import ExhaustiveScorer, StateSize
from attrbench.features.gradient_products import GradientProducts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ProductScorer(ExhaustiveScorer):
    """tau = sum over t of <g_q^t, g_i^t>, where `normalize` divided by the norms of both.

    Args:
        feature: the products.
        normalize: whether each timestep's gradients count with unit norm.
    """

    def __init__(self, feature: GradientProducts, normalize: bool) -> None:
        self._feature = feature
        self._normalize = normalize
        self._bytes_if_kept: int | None = None

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """[m, n] scores."""
        import numpy as np

        products = query[self._feature]
        self._bytes_if_kept = products.bytes_if_kept
        values = products.values.astype(np.float64)
        if self._normalize:
            norms = products.query_norms[:, None, :].astype(np.float64) * products.train_norms[None, :, :]
            values = np.divide(values, norms, out=np.zeros_like(values), where=norms > 1e-24)
        scores: NDArray[np.float32] = values.sum(axis=2).astype(np.float32)
        return scores

    def size(self) -> StateSize:
        """Nothing is kept for a new query; the gradients, had they been kept, would take `rows_if_kept`."""
        return StateSize(rows_if_kept=self._bytes_if_kept)
