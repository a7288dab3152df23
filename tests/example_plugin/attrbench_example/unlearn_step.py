"""The method `unlearn-step`: how far each training item's loss rises when the model unlearns the query a little."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.contracts.method import Context, Edited, ExhaustiveScorer, Method, StateSize
from attrbench.contracts.options import Options
from attrbench.features.losses_under_edit import LossesUnderEdit
from attrbench.gradients.samples import NoisySamples


class UnlearnStepOptions(Options):
    """Options of `unlearn-step`."""

    rate: float = Field(0.003, gt=0)
    """Length of the step, as a share of the norm of the weights."""
    timesteps: int = Field(5, ge=1, le=1000)
    """Number of timesteps at which losses are taken."""


class UnlearnStep(Method[UnlearnStepOptions]):
    """tau(q, i) = L(i; w') - L(i; w) with w' = w + rate |w| grad L(q; w) / |grad L(q; w)|, L the mean over timesteps.

    By the mirrored influence hypothesis, what unlearning the query does to an item says what leaving out the item does
    to the query. Wang et al. replace the plain step by one that the Fisher information weighs.
    """

    name = "unlearn-step"
    summary = "rise of each item's loss after one step of gradient ascent on the query's"
    citation = "Ko et al. 2024 (arXiv 2402.08922); Wang et al. 2024 (arXiv 2406.09408), with a plain gradient step"
    Options = UnlearnStepOptions

    @property
    def losses(self) -> LossesUnderEdit:
        """The losses before and after."""
        source = GradientSource(grid=TimestepGrid(kind="uniform", steps=self.options.timesteps))
        return LossesUnderEdit(source=source, edit=self.key)

    def features(self) -> FeatureRequest:
        """The losses of the training items, of which the queries know how they rise."""
        return FeatureRequest.both(self.losses)

    def edit(self, model: Denoiser, query: NoisySamples, context: Context) -> Edited:
        """Take one step up the gradient of the query's loss."""
        parameters = list(query.parameters.values())
        outputs = query.gradients().outputs
        loss = torch.stack([outputs(batch).sum() for _, _, batch in query.batches(64)]).sum() / len(query.timesteps)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        length = _norm(gradients)
        step = self.options.rate * _norm(parameters)
        if length > 0:
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.add_(gradient, alpha=step / length)
        return Edited({"step_length": step})

    def fit(self, train: TrainFeatures, context: Context) -> RiseScorer:
        """Keep the losses under the original weights."""
        return RiseScorer(train[self.losses], self.losses)


class RiseScorer(ExhaustiveScorer):
    """Scores by the rise of the loss.

    Args:
        train: [n, T] losses under the original weights.
        losses: the feature.
    """

    def __init__(self, train: NDArray[np.float32], losses: LossesUnderEdit) -> None:
        self._train = train
        self._losses = losses

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the [m, n] rises, means over the timesteps."""
        rises = query[self._losses].astype(np.float64) - self._train
        return rises.mean(axis=2).astype(np.float32)

    def size(self) -> StateSize:
        """Return the bytes of the losses; an answer needs the training set and the network besides."""
        return StateSize(rows=self._train.nbytes)


def _norm(tensors: list[torch.nn.Parameter] | tuple[torch.Tensor, ...]) -> float:
    """Return the norm of all entries together."""
    return float(torch.stack([tensor.detach().double().norm() for tensor in tensors]).norm())
