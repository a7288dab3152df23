"""GradCos: cosine of mean loss gradients, a baseline of D-TRAK (Zheng et al. 2024, arXiv 2311.00500)."""

from __future__ import annotations

from attrbench.contracts.feature import FeatureRequest, TrainFeatures
from attrbench.contracts.method import Context, Method, Scorer
from attrbench.search.exact import ExactSearch
from attrbench_methods.gradient_options import MeanGradientOptions


class GradCos(Method[MeanGradientOptions]):
    """tau = <phi_q, phi_i> / (|phi_q| |phi_i|), phi the sketched mean of the loss gradients over the timesteps."""

    name = "grad-cos"
    summary = "cosine of mean loss gradients"
    citation = 'Zheng et al. 2024, D-TRAK (arXiv 2311.00500), baseline "GradCos"'
    Options = MeanGradientOptions
    self_first = True

    def features(self) -> FeatureRequest:
        """Return the request of sketched mean gradients, the same as `trak`'s."""
        return FeatureRequest.both(self.options.rows())

    def fit(self, train: TrainFeatures, context: Context) -> Scorer:
        """Return the exhaustive search over rows of unit norm."""
        rows = self.options.rows()
        return ExactSearch(train[rows], rows, normalize=True)
