"""Method `grad-cos`: cosine of mean loss gradients, a baseline of D-TRAK (Zheng et al. 2024, arXiv 2311.00500)."""

from __future__ import annotations

from attrbench.contracts.feature import FeatureRequest, TrainFeatures
from attrbench.contracts.method import Context, Method, Scorer
from attrbench.search.exact import ExactSearch
from attrbench_methods.gradient_options import MeanGradientOptions


class GradCos(Method[MeanGradientOptions]):
    """Attribution by the cosine of the query's and the training item's sketched mean loss gradients.

    tau = <phi_q, phi_i> / (|phi_q| |phi_i|), phi the sketched mean of the loss gradients over the timesteps.
    """

    name = "grad-cos"
    version = 2
    summary = "cosine of mean loss gradients"
    citation = 'Zheng et al. 2024, D-TRAK (arXiv 2311.00500), baseline "GradCos"'
    Options = MeanGradientOptions
    self_first = True

    def features(self) -> FeatureRequest:
        """Request sketched mean loss gradients of training items and queries, the same feature as `trak`'s."""
        return FeatureRequest.both(self.options.rows())

    def fit(self, train: TrainFeatures, context: Context) -> Scorer:
        """Return a scorer that takes cosines of the query's mean gradient with those of all training items."""
        rows = self.options.rows()
        return ExactSearch(train[rows], rows, normalize=True)
