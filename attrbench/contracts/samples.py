"""The contract of noisy samples: pairs of an item and a timestep, ready for the network, with their gradients.

`Context.training` and `Context.queries` give them to methods that need more of the model than features, such as
curvature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.gradient_source import GradientSource

ModelOutput = Callable[[Tensor, Tensor], Tensor]
"""Takes the network's output and its target, [B, ...] both, and returns the [B] scalars that are differentiated."""
GradientSink = Callable[[int, Tensor], None]
"""Called once for each parameter with (offset in the concatenated gradient, gradients [B, numel])."""


@dataclass(frozen=True)
class Batch:
    """A batch of B noisy samples, ready for the network.

    Attributes:
        noisy: [B, C, H, W] network input x_t.
        target: [B, C, H, W] regression target.
        t: [B] timesteps.
        conditioning: tensors with leading dimension B.
        weight: [B] factors of the model output, or None for 1.
    """

    noisy: Tensor
    target: Tensor
    t: Tensor
    conditioning: Mapping[str, Tensor]
    weight: Tensor | None = None

    def sample(self, index: int) -> Batch:
        """Return one sample as a batch of size 1."""
        return self.select(torch.tensor([index]))

    def select(self, index: Tensor) -> Batch:
        """Return the batch of the samples at `index` ([k] integers)."""
        index = index.to(self.noisy.device)
        conditioning = {name: value[index] for name, value in self.conditioning.items()}
        weight = None if self.weight is None else self.weight[index]
        return Batch(self.noisy[index], self.target[index], self.t[index], conditioning, weight)


class SampleGradients(Protocol):
    """Computes, for each sample of a batch, the gradient of a scalar to the parameters."""

    @property
    def offsets(self) -> Mapping[str, int]:
        """Offset of each parameter in the concatenated vector."""

    @property
    def total(self) -> int:
        """Number of entries of the concatenated vector, p."""

    def __call__(self, batch: Batch, sink: GradientSink) -> Tensor:
        """Run one forward and backward pass, hand every parameter's gradients to `sink`, and return the [B] scalars."""

    def outputs(self, batch: Batch) -> Tensor:
        """Return the [B] scalars, differentiable."""


class Samples(Protocol):
    """All pairs of the items of one split and the timesteps of one source."""

    @property
    def source(self) -> GradientSource:
        """Return what decides timesteps, noise, parameters and the scalar that is differentiated."""

    @property
    def denoiser(self) -> Denoiser:
        """The model with the weights that the source names."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The parameters that are differentiated, by name, in the order of the concatenated vector."""

    @property
    def timesteps(self) -> Sequence[float]:
        """The T timesteps."""

    @property
    def first(self) -> int:
        """Index of the first item."""

    @property
    def count(self) -> int:
        """Number of items from the first on, n."""

    @property
    def items_fingerprint(self) -> str:
        """Hash of all items of the split."""

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor, Batch]]:
        """Yield (items [B], indices into the timesteps [B], batch) of at most `size` pairs, until all were there."""

    def drawn(self, size: int, draws: torch.Generator) -> Batch:
        """Return `size` different pairs drawn from all n T; all of them where `size` is no less."""

    def gradients(self, output: ModelOutput | None = None) -> SampleGradients:
        """Return what differentiates the source's scalar, or another one."""
