"""Scores by traker (the package `trak`) with the projectors that need no GPU."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile

import numpy as np
import torch
from torch import nn
from trak import TRAKer
from trak.gradient_computers import FunctionalGradientComputer
from trak.modelout_functions import AbstractModelOutput
from trak.projectors import AbstractProjector, BasicProjector, NoOpProjector, ProjectionType

from tests.cross_check.problems import Data


class Loss(AbstractModelOutput):
    """f = the loss of one item, Q = 1: what D-TRAK calls TRAK."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def get_output(self, model, weights, buffers, noisy, target):
        """The loss of one item, which comes without a batch dimension."""
        predicted = torch.func.functional_call(model, (weights, buffers), noisy[None])
        return self.scale * self._value(predicted[0], target)

    def _value(self, predicted, target):
        return (predicted - target).square().mean()

    def get_out_to_loss_grad(self, model, weights, buffers, batch):
        """Q = 1."""
        return torch.ones(len(batch[0]), 1)


class SquaredNorm(Loss):
    """f = the output's mean square: D-TRAK."""

    def _value(self, predicted, target):
        return predicted.square().mean()


def basic_projector(parameters: int, length: int, seed: int = 0) -> BasicProjector:
    """traker's Gaussian projector for CPUs, unscaled, in float32."""
    return BasicProjector(parameters, length, seed, ProjectionType.normal, "cpu", dtype=torch.float32)


def projection(parameters: int, length: int, seed: int = 0) -> np.ndarray:
    """[p, k] the matrix of `basic_projector`."""
    return basic_projector(parameters, length, seed).project(torch.eye(parameters), model_id=0).double().numpy()


def gradients(module: nn.Module, data: Data) -> np.ndarray:
    """[n, p] per-sample gradients."""
    count = sum(parameter.numel() for parameter in module.parameters())
    compute = FunctionalGradientComputer(module, Loss(), count, torch.float32, torch.device("cpu"))
    found = compute.compute_per_sample_grad(tuple(data))
    return torch.cat([part.flatten(1) for part in found.values()], dim=1).detach().double().numpy()


def whole() -> NoOpProjector:
    """No projection."""
    return NoOpProjector(device="cpu")


def scores(
    module: nn.Module,
    train: Data,
    query: Data,
    projector: AbstractProjector,
    damping: float,
    output: Loss | None = None,
    half: bool = False,
) -> np.ndarray:
    """[m, n] TRAK scores, up to the factor by which traker divides the inverse.

    Args:
        module: the network.
        train: the training set.
        query: the queries.
        projector: of gradients.
        damping: traker's `lambda_reg`, for features that are divided by sqrt(p).
        output: what is differentiated; the loss by default.
        half: traker's default: features and products in float16.
    """
    weights = module.state_dict()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        traker = TRAKer(
            model=module,
            task=output or Loss(),
            train_set_size=len(train.noisy),
            save_dir=folder,
            device="cpu",
            projector=projector,
            use_half_precision=half,
            lambda_reg=damping,
            logging_level=logging.ERROR,
        )
        traker.load_checkpoint(weights, model_id=0)
        traker.featurize(tuple(train), num_samples=len(train.noisy))
        traker.finalize_features()
        traker.start_scoring_checkpoint("queries", weights, 0, len(query.noisy))
        traker.score(tuple(query), num_samples=len(query.noisy))
        found = traker.finalize_scores("queries")
        return np.array(found, dtype=np.float64).T
