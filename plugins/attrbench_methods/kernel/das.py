"""Method `das`: squared change of the model's output when an item is left out (Lin et al. 2024, arXiv 2410.18639)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, Method, StateSize
from attrbench.features.outputs import Outputs
from attrbench_methods.kernel.kernel_features import KernelFeatures
from attrbench_methods.kernel.ridge import RidgeOptions, RidgeScorer, fit_kernel


class DASOptions(RidgeOptions):
    """Options of the method `das`: ridge kernel, and which of residual, leverage and square enter the score."""

    needs: ClassVar = {"target": "residual=true"}
    output: ClassVar[Literal["mean"]] = "mean"  # type: ignore[misc]
    normalize: bool = True
    """Whether each timestep's gradient is scaled to unit norm before the mean is taken."""
    squared: bool = True
    """Whether the score is squared, as the theory says: the size of the output's change, not its sign."""
    residual: bool = True
    """Whether a score is multiplied by the item's own error r_i."""
    leverage: bool = True
    """Whether the error is divided by 1 - h_i, which gives the error of a model fitted without the item."""


class DAS(Method[DASOptions]):
    """Attribution by the squared change of the model's output when an item is left out, from one ridge kernel.

    tau = (phi_q (Phi^T Phi + lam I)^-1 phi_i^T r_i / (1 - h_i))^2. phi is the mean over the timesteps of the unit
    gradients of the output's mean, r_i the mean over the timesteps of the root of the loss over its norm, h_i the
    leverage.
    """

    name = "das"
    version = 2
    summary = "squared leave-one-out change of the output, by one ridge kernel"
    citation = "Lin et al. 2024, Diffusion Attribution Score (arXiv 2410.18639)"
    Options = DASOptions

    def features(self) -> FeatureRequest:
        """Request mean gradients of the network's output, and the training items' losses for the residuals."""
        request = self.means.request()
        return FeatureRequest(request.train + ((self._losses,) if self.options.residual else ()), request.query)

    @property
    def means(self) -> KernelFeatures:
        """Return the gradient features of the ridge kernel: means over timesteps of gradients of the output's mean."""
        return self.options.means()

    @property
    def _losses(self) -> Outputs:
        return Outputs(source=self.options.source("loss"))

    def fit(self, train: TrainFeatures, context: Context) -> DASScorer:
        """Return a ridge kernel scorer that multiplies each item's scores by its residual over 1 - leverage."""
        kernel = fit_kernel(self.means, train, self.options, context)
        factors = np.ones(train.count)
        if self.options.residual:
            errors = np.sqrt(train[self._losses].astype(np.float64))
            norms = np.linalg.norm(errors, axis=1, keepdims=True)
            factors *= np.divide(errors, norms, out=np.zeros_like(errors), where=norms > 0).mean(axis=1)
        if self.options.leverage:
            factors /= (1 - kernel.leverages()).clip(1e-6)
        return DASScorer(RidgeScorer(self.means, train, kernel), factors, self.options.squared)


class DASScorer(ExhaustiveScorer):
    """Scorer of DAS: ridge kernel scores times a factor for each training item ([n]), squared by default."""

    def __init__(self, ridge: RidgeScorer, factors: NDArray[np.float64], squared: bool) -> None:
        self._ridge = ridge
        self._factors = factors
        self._squared = squared

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the [m, n] DAS scores of n training items for m queries, at least 0 if squared."""
        scores = self._ridge.scores(query).astype(np.float64) * self._factors
        return (scores**2 if self._squared else scores).astype(np.float32)

    def facts(self) -> dict[str, float]:
        """Return the kernel's damping lam as an absolute number, for the result record."""
        return self._ridge.facts()

    def build_seconds(self) -> float:
        """Return the seconds that the kernel's eigendecomposition took in an earlier run, 0 if it was not loaded."""
        return self._ridge.build_seconds()

    def size(self) -> StateSize:
        """Return the bytes of the training gradients, the inverse kernel and the per-item factors, for new queries."""
        size = self._ridge.size()
        return replace(size, shared=size.shared + self._factors.nbytes)
