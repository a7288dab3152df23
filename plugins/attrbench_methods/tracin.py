"""TracIn over several checkpoints (methods-spec M5)."""

from __future__ import annotations

from attrbench.features import FeaturePlan, GradientProducts, TrainFeatures
from attrbench.method import Context, Method
from attrbench_methods.checkpoints import CheckpointOptions, SummedScorer
from attrbench_methods.gradient_options import GradientOptions
from attrbench_methods.products import ProductScorer


class TracInOptions(CheckpointOptions, GradientOptions):
    """Options of `tracin`."""

    normalise: bool = False
    """Whether each timestep's gradient is scaled to unit norm first."""


class TracIn(Method[TracInOptions]):
    """tau = sum over checkpoints c of w_c sum over t of <g_q^{c,t}, g_i^{c,t}>, whole gradients."""

    name = "tracin"
    summary = "inner products of loss gradients, summed over checkpoints of the training"
    citation = "Pruthi et al. 2020 (arXiv 2002.08484)"
    Options = TracInOptions

    def features(self) -> FeaturePlan:
        """Inner products at each checkpoint; those at the final weights are `grad-dot`'s."""
        products = [GradientProducts(source=self.options.source(checkpoint=name)) for name in self.options.names()]
        return FeaturePlan(None, None, tuple(FeaturePlan(train=each, query=each) for each in products))

    def fit(self, train: TrainFeatures, context: Context) -> SummedScorer:
        """Looks the weights up."""
        scorers = [ProductScorer(self.options.normalise) for _ in train.parts]
        return SummedScorer(scorers, self.options.factors(context.denoiser()))
