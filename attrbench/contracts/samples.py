"""The contract of noisy samples: (item, timestep) pairs as network inputs, with their per-sample gradients.

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
    """A batch of B noisy samples as network input: noisy latents, targets, timesteps and conditioning.

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
        """Return one noisy sample of the batch as a batch of size 1."""
        return self.select(torch.tensor([index]))

    def select(self, index: Tensor) -> Batch:
        """Return the batch of the noisy samples at `index` ([k] integers)."""
        index = index.to(self.noisy.device)
        conditioning = {name: value[index] for name, value in self.conditioning.items()}
        weight = None if self.weight is None else self.weight[index]
        return Batch(self.noisy[index], self.target[index], self.t[index], conditioning, weight)


class SampleGradients(Protocol):
    """Protocol of computing, for each sample of a batch, the gradient of a scalar with respect to the parameters."""

    @property
    def offsets(self) -> Mapping[str, int]:
        """Return parameter name -> offset of its gradient in the concatenated gradient vector."""

    @property
    def total(self) -> int:
        """Return p, the length of the concatenated gradient vector."""

    def __call__(self, batch: Batch, sink: GradientSink) -> Tensor:
        """Run one forward and backward pass, give each parameter's gradients to `sink`, and return the [B] outputs."""

    def outputs(self, batch: Batch) -> Tensor:
        """Return the [B] scalar outputs of a batch, such as losses, differentiable by autograd."""


class Samples(Protocol):
    """Protocol of the noisy samples of the training set or the queries: each item at each timestep of one source."""

    @property
    def source(self) -> GradientSource:
        """Return the gradient source: timesteps, noise, parameters and the scalar that is differentiated."""

    @property
    def denoiser(self) -> Denoiser:
        """Return the diffusion model with the weights of the checkpoint that the gradient source names."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Return the differentiated parameters by name, in the order of the concatenated gradient vector."""

    @property
    def timesteps(self) -> Sequence[float]:
        """Return the T diffusion timesteps at which each item is noised."""

    @property
    def first(self) -> int:
        """Return the index of the first item that these noisy samples cover."""

    @property
    def count(self) -> int:
        """Return n, the number of items that these noisy samples cover, from `first` on."""

    @property
    def items_fingerprint(self) -> str:
        """Return the hash of the contents of all items of the training set or of the queries."""

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor, Batch]]:
        """Yield (item indices [B], timestep indices [B], batch) over all (item, timestep) pairs, with B <= `size`."""

    def drawn(self, size: int, draws: torch.Generator) -> Batch:
        """Return a batch of `size` distinct (item, timestep) pairs drawn at random; all pairs if there are no more."""

    def gradients(self, output: ModelOutput | None = None) -> SampleGradients:
        """Return the computation of per-sample gradients of `output`, by default of the source's own scalar."""
