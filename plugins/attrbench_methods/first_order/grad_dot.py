"""Method `grad-dot`: inner product of loss gradients at matching timesteps (DMin, arXiv 2412.08637, eq. 7)."""

from __future__ import annotations

from attrbench.contracts.feature import FeatureRequest, TrainFeatures
from attrbench.contracts.method import Context, Method
from attrbench.features.gradient_products import GradientProducts
from attrbench_methods.first_order.product_scorer import ProductScorer
from attrbench_methods.gradient_options import GradientOptions


class GradDot(Method[GradientOptions]):
    """Attribution by inner products of whole loss gradients at the same timesteps, at the final weights.

    tau = sum over t of <g_q^t, g_i^t>, whole gradients (DMin eq. 7; "DMin w/o compression and normalization"). The
    constants of eq. 7 (epochs, learning rate) are positive and do not change a ranking; they are left out.
    """

    name = "grad-dot"
    version = 2
    summary = "inner product of whole loss gradients, not normalized (TracIn at the last checkpoint)"
    citation = "Pruthi et al. 2020 (arXiv 2002.08484); DMin (arXiv 2412.08637), eq. 7"
    Options = GradientOptions

    def features(self) -> FeatureRequest:
        """Request inner products of training gradients with the queries' gradients; no gradient is stored."""
        return FeatureRequest.both(self._products)

    @property
    def _products(self) -> GradientProducts:
        return GradientProducts(source=self.options.source())

    def fit(self, train: TrainFeatures, context: Context) -> ProductScorer:
        """Return a scorer that sums inner products of gradients over the timesteps; nothing is fitted."""
        return ProductScorer(self._products, self.options.normalize)
