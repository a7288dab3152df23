"""Scores by kronfluence."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from torch import nn
from torch.utils.data import TensorDataset

from tests.cross_check.problems import Data

DOUBLE = torch.float64


class Denoising(Task):
    """One loss an item, summed, as kronfluence wants it."""

    def compute_train_loss(self, batch, model, sample=False):
        """The loss; where it is to be sampled, a function whose gradient to the output is the batch's second part."""
        noisy, other = batch
        predicted = model(noisy)
        if sample:
            return (predicted * other).sum()
        return (predicted - other).square().flatten(1).mean(1).sum()

    def compute_measurement(self, batch, model):
        """The loss of the queries."""
        return self.compute_train_loss(batch, model)


def scores(
    module: nn.Module,
    train: Data,
    query: Data,
    strategy: str = "ekfac",
    damping: float | None = None,
    curvature: tuple[Data, Data] | None = None,
    sampled: bool = False,
) -> np.ndarray:
    """[m, n] pairwise scores, every stage in float64 where kronfluence lets one choose.

    Args:
        module: the network; it is wrapped, so hand over a copy.
        train: the training set.
        query: the queries.
        strategy: `identity`, `kfac` or `ekfac`.
        damping: absolute; None is 0.1 of each module's mean eigenvalue.
        curvature: what covariances and eigenvalues are made of; the training set by default.
        sampled: whether the second part of `curvature` is the gradient to the network's output instead of a target.
    """
    vectors, values = curvature or (train, train)
    factor = FactorArguments(
        strategy=strategy,
        use_empirical_fisher=not sampled,
        activation_covariance_dtype=DOUBLE,
        gradient_covariance_dtype=DOUBLE,
        per_sample_gradient_dtype=DOUBLE,
        lambda_dtype=DOUBLE,
    )
    score = ScoreArguments(
        damping_factor=damping, per_sample_gradient_dtype=DOUBLE, precondition_dtype=DOUBLE, score_dtype=DOUBLE
    )
    task = Denoising()
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        model = prepare_model(module.double(), task)
        analyzer = Analyzer("cross-check", model, task, cpu=True, disable_tqdm=True, output_dir=folder)
        analyzer.fit_covariance_matrices("factors", _set(vectors), len(vectors.noisy), factor_args=factor)
        analyzer.perform_eigendecomposition("factors", factor_args=factor)
        analyzer.fit_lambda_matrices("factors", _set(values), len(values.noisy), factor_args=factor)
        analyzer.compute_pairwise_scores(
            "scores", "factors", _set(query), _set(train), len(query.noisy), len(train.noisy), score_args=score
        )
        return analyzer.load_pairwise_scores("scores")["all_modules"].double().numpy()


def _set(data: Data) -> TensorDataset:
    return TensorDataset(*(tensor.double() for tensor in data))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
