"""Model outputs: the scalars that are differentiated, one an item (methods-spec 1).

e is the network's output with d entries, y the regression target. Outputs in `WEIGHTED` are multiplied by the
denoiser's weight of the timestep.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attrbench.contracts.samples import ModelOutput


def _mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


def loss(predicted: Tensor, target: Tensor) -> Tensor:
    """(1/d) sum (e - y)^2: the training loss of one item; [B, ...] to [B]."""
    return _mean((predicted - target).square())


def squared_norm(predicted: Tensor, target: Tensor) -> Tensor:
    """(1/d) sum e^2: D-TRAK's output, which does not look at the target; [B, ...] to [B]."""
    return _mean(predicted.square())


def mean(predicted: Tensor, target: Tensor) -> Tensor:
    """(1/d) sum e: DAS's output; [B, ...] to [B]."""
    return _mean(predicted)


def l1(predicted: Tensor, target: Tensor) -> Tensor:
    """|e|_1, not divided by d (D-TRAK's ablation); [B, ...] to [B]."""
    return predicted.flatten(1).abs().sum(1)


def l2(predicted: Tensor, target: Tensor) -> Tensor:
    """|e|_2 (D-TRAK's ablation); [B, ...] to [B]."""
    norms: Tensor = torch.linalg.vector_norm(predicted.flatten(1), dim=1)
    return norms


def linf(predicted: Tensor, target: Tensor) -> Tensor:
    """Max |e_j| (D-TRAK's ablation); [B, ...] to [B]."""
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
