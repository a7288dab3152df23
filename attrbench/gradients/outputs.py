"""Model outputs: the scalars that are differentiated, one an item (methods-spec 1)."""

from __future__ import annotations

from collections.abc import Callable

import torch

ModelOutput = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).mean(1)


def loss(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(1/d) sum (e - y)^2: the training loss of one item; [B, ...] to [B]."""
    return _mean((predicted - target).square())


def squared_norm(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(1/d) sum e^2: D-TRAK's output, which does not look at the target; [B, ...] to [B]."""
    return _mean(predicted.square())


def mean(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(1/d) sum e: DAS's output; [B, ...] to [B]."""
    return _mean(predicted)


MODEL_OUTPUTS: dict[str, ModelOutput] = {"loss": loss, "squared-norm": squared_norm, "mean": mean}
