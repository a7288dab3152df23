"""Diffusion-ReTrac: gradients scaled to unit norm timestep by timestep (Xie et al. 2024)."""

from __future__ import annotations

from pydantic import Field

from attrbench.contracts.feature import FeaturePlan, TrainFeatures
from attrbench.contracts.method import Context, Method
from attrbench_methods.first_order.checkpoint_sums import CheckpointOptions, SummedScorer
from attrbench_methods.gradient_options import MeanGradientOptions


class ReTracOptions(CheckpointOptions, MeanGradientOptions):
    """Options of `diffusion-retrac`."""

    checkpoints: int = Field(1, ge=1)
    """How many checkpoints, evenly spaced through training, the final weights among them; the paper takes several."""


class DiffusionReTrac(Method[ReTracOptions]):
    """tau = sum over checkpoints of w <phi_q, phi_i>, phi the mean over the timesteps of g^t / |g^t|, sketched.

    Unlike DMin's, the products join every timestep of the query with every timestep of the item.
    """

    name = "diffusion-retrac"
    summary = "means of loss gradients that are scaled to unit norm at each timestep"
    citation = "Xie et al. 2024, Diffusion-ReTrac (arXiv 2401.09031)"
    Options = ReTracOptions

    def features(self) -> FeaturePlan:
        """Means of unit gradients, out of the passes of `trak`."""
        plans = [self.options.plan("loss", "mean-normalized", name) for name in self.options.names()]
        return FeaturePlan(None, None, tuple(plans))

    def fit(self, train: TrainFeatures, context: Context) -> SummedScorer:
        """Looks the weights up."""
        from attrbench.search.exact import ExactSearch

        rows = [part.rows for part in train.parts if part.rows is not None]
        factors = self.options.factors(context.denoiser())
        return SummedScorer([ExactSearch(part, normalize=False) for part in rows], factors)
