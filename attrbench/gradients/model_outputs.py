"""Model outputs: functions from a network's prediction to the scalar that is differentiated, one for each sample.

e is the network's prediction with d entries, y the regression target. Outputs in `WEIGHTED` are multiplied by the
denoiser's loss weight at the timestep. D-TRAK is Zheng et al. 2024 (arXiv:2311.00500), whose ablation has the norms;
DAS is Lin et al. 2025.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attrbench.contracts.samples import ModelOutput


def _mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


def loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the training loss of each sample, (1/d) sum (e - y)^2; [B, ...] to [B]."""
    return _mean((predicted - target).square())


def squared_norm(predicted: Tensor, target: Tensor) -> Tensor:
    """Return D-TRAK's model output of each sample, (1/d) sum e^2, which ignores the target; [B, ...] to [B]."""
    return _mean(predicted.square())


def mean(predicted: Tensor, target: Tensor) -> Tensor:
    """Return DAS's model output of each sample, the prediction's mean (1/d) sum e; [B, ...] to [B]."""
    return _mean(predicted)


def l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the L1 norm |e|_1 of each sample's prediction, not divided by d (D-TRAK's ablation); [B, ...] to [B]."""
    return predicted.flatten(1).abs().sum(1)


def l2(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the L2 norm |e|_2 of each sample's prediction (D-TRAK's ablation); [B, ...] to [B]."""
    norms: Tensor = torch.linalg.vector_norm(predicted.flatten(1), dim=1)
    return norms


def linf(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the maximum norm max |e_j| of each sample's prediction (D-TRAK's ablation); [B, ...] to [B]."""
    return predicted.flatten(1).abs().amax(1)


MODEL_OUTPUTS: dict[str, ModelOutput] = {
    "loss": loss,
    "weighted-loss": loss,
    "squared-norm": squared_norm,
    "mean": mean,
    "l1": l1,
    "l2": l2,
    "linf": linf,
}
WEIGHTED = frozenset({"weighted-loss"})
