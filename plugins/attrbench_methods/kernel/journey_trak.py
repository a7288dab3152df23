"""Method `journey-trak`: TRAK whose queries are sampling trajectories (Georgiev et al. 2023, arXiv 2312.06205)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from attrbench.contracts.feature import FeatureRequest, TrainFeatures
from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.contracts.method import Context, Method, Scorer
from attrbench_methods.kernel.kernel_features import KernelFeatures
from attrbench_methods.kernel.ridge import RidgeOptions, RidgeScorer, fit_kernel


class JourneyOptions(RidgeOptions):
    """Options of the method `journey-trak`: ridge kernel, and the sampling steps that a query is followed along."""

    needs: ClassVar = {"sampling_steps": "at=none", "draws": "at"}
    sampling_steps: int | None = Field(None, ge=1, le=1000)
    """Number of the sampler's steps over which a query's gradient is averaged; `none` takes all."""
    at: int | None = Field(None, ge=0, le=999)
    """Timestep of the only sampling step that is scored, the nearest (Georgiev et al.); `none` takes all steps."""
    draws: int = Field(20, ge=1, le=1000)
    """Number of noises that are added to the estimate of x_0 at that step; 1 with `noise=shared`."""

    @model_validator(mode="after")
    def _trajectories_keep_their_range(self) -> JourneyOptions:
        if self.image_range != "model":
            raise ValueError("image_range=unit: trajectories are in the range of the model")
        return self

    @model_validator(mode="after")
    def _draws_differ(self) -> JourneyOptions:
        if self.at is not None and self.noise == "shared" and self.draws > 1:
            raise ValueError(f"noise=shared: all {self.draws} draws would have the same noise; give draws=1")
        return self


class JourneyTRAK(Method[JourneyOptions]):
    """TRAK with each query's loss gradient taken at the sampler's estimates of the image along its trajectory.

    phi_q is the mean loss gradient of the sampler's estimates of x_0, each at its own timestep.
    """

    name = "journey-trak"
    version = 2
    summary = "ridge kernel over loss gradients, queries followed along their sampling trajectory"
    citation = "Georgiev et al. 2023 (arXiv 2312.06205), as adapted by Zheng et al. 2024 (arXiv 2311.00500)"
    Options = JourneyOptions

    def features(self) -> FeatureRequest:
        """Request mean loss gradients of the training items, and of the queries along their trajectories."""
        return self.means.request()

    @property
    def means(self) -> KernelFeatures:
        """Return the kernel's features: `trak`'s for training items, trajectory gradients for the queries."""
        o = self.options
        grid = TimestepGrid(kind="sampler", steps=o.sampling_steps)
        if o.at is not None:
            grid = TimestepGrid(kind="single", steps=o.draws, at=o.at)
        return o.means(queries=o.source().model_copy(update={"grid": grid, "latents": "trajectory"}))

    def fit(self, train: TrainFeatures, context: Context) -> Scorer:
        """Return the ridge kernel scorer, after inverting the damped Gram matrix of the training gradients."""
        return RidgeScorer(self.means, train, fit_kernel(self.means, train, self.options, context))
