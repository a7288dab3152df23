"""Method `tracin`: inner products of loss gradients, summed over checkpoints (Pruthi et al. 2020, arXiv 2002.08484)."""

from __future__ import annotations

from attrbench.contracts.feature import FeatureRequest, TrainFeatures
from attrbench.contracts.method import Context, Method
from attrbench.features.gradient_products import GradientProducts
from attrbench_methods.first_order.checkpoint_sums import CheckpointOptions, SummedScorer
from attrbench_methods.first_order.product_scorer import ProductScorer
from attrbench_methods.gradient_options import GradientOptions


class TracInOptions(CheckpointOptions, GradientOptions):
    """Options of the method `tracin`: the training checkpoints, their weights, and the loss gradients."""


class TracIn(Method[TracInOptions]):
    """Attribution by inner products of whole loss gradients at the same timesteps, summed over checkpoints.

    tau = sum over checkpoints c of w_c sum over t of <g_q^{c,t}, g_i^{c,t}>, whole gradients.
    """

    name = "tracin"
    version = 2
    summary = "inner products of loss gradients, summed over checkpoints of the training"
    citation = "Pruthi et al. 2020 (arXiv 2002.08484)"
    Options = TracInOptions

    def features(self) -> FeatureRequest:
        """Request inner products of gradients at each checkpoint; at the final weights they are `grad-dot`'s."""
        return FeatureRequest.both(*self._products)

    @property
    def _products(self) -> list[GradientProducts]:
        return [GradientProducts(source=self.options.source(checkpoint=name)) for name in self.options.names()]

    def fit(self, train: TrainFeatures, context: Context) -> SummedScorer:
        """Return a scorer that sums gradient inner products over timesteps and, weighted, over checkpoints."""
        scorers = [ProductScorer(products, self.options.normalize) for products in self._products]
        return SummedScorer(scorers, self.options.factors(context.denoiser()))
