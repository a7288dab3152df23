"""Method `diffusion-retrac`: TracIn with unit-norm gradients at each timestep (Xie et al. 2024, arXiv 2401.09031)."""

from __future__ import annotations

from pydantic import Field

from attrbench.contracts.feature import FeatureRequest, TrainFeatures
from attrbench.contracts.method import Context, Method
from attrbench.features.gradient_rows import GradientRows
from attrbench.search.exact import ExactSearch
from attrbench_methods.first_order.checkpoint_sums import CheckpointOptions, SummedScorer
from attrbench_methods.gradient_options import MeanGradientOptions


class ReTracOptions(CheckpointOptions, MeanGradientOptions):
    """Options of the method `diffusion-retrac`: checkpoints, gradients, their sketch and normalization."""

    checkpoints: int = Field(1, ge=1, le=1000)
    """Number of checkpoints, evenly spaced through training, the final weights among them; the paper takes several."""
    normalize: bool = True
    """Whether each timestep's gradient is scaled to unit norm before the mean is taken, as in the paper."""


class DiffusionReTrac(Method[ReTracOptions]):
    """Attribution by inner products of sketched means of unit-norm timestep gradients, summed over checkpoints.

    tau = sum over checkpoints of w <phi_q, phi_i>, phi the mean over the timesteps of g^t / |g^t|, sketched. Unlike
    DMin's, the products join every timestep of the query with every timestep of the item.
    """

    name = "diffusion-retrac"
    version = 2
    summary = "means of loss gradients that are scaled to unit norm at each timestep"
    citation = "Xie et al. 2024, Diffusion-ReTrac (arXiv 2401.09031)"
    Options = ReTracOptions

    def features(self) -> FeatureRequest:
        """Request sketched means of unit-norm gradients, of training items and queries, at each checkpoint.

        `trak`'s pass computes those at the final weights too.
        """
        return FeatureRequest.both(*self._rows)

    @property
    def _rows(self) -> list[GradientRows]:
        return [self.options.rows(name) for name in self.options.names()]

    def fit(self, train: TrainFeatures, context: Context) -> SummedScorer:
        """Return a scorer that sums inner products of mean gradients over the checkpoints, with their weights."""
        factors = self.options.factors(context.denoiser())
        return SummedScorer([ExactSearch(train[rows], rows, normalize=False) for rows in self._rows], factors)
