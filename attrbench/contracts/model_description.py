"""Descriptions of models: what a plan must know of one, without its weights in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attrbench.contracts.denoiser import Denoiser
    from attrbench.contracts.gradient_source import TimestepGrid


@dataclass(frozen=True)
class ModelDescription:
    """The description of a model for a plan, read from configurations and digests of files, without weights in memory.

    It agrees exactly with the loaded denoiser, because it asks the same class, over a network without weights.

    Attributes:
        outline: the denoiser on the device `meta`. It can say what it is, and compute nothing. (A loaded denoiser will
            do as well, where a task has nothing cheaper.)
    """

    outline: Denoiser

    @property
    def fingerprint(self) -> str:
        """Return `Denoiser.fingerprint` of the final weights."""
        return self.outline.fingerprint

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of one encoded item."""
        return self.outline.latent_shape

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return (H, W, C) of one picture."""
        return self.outline.image_shape

    @property
    def takes_prompts(self) -> bool:
        """Return whether the model draws from prompts."""
        return self.outline.takes_prompts

    @property
    def has_latents(self) -> bool:
        """Return whether items pass through an autoencoder."""
        return self.outline.has_latents

    @property
    def training_steps(self) -> int:
        """Return the number of training timesteps."""
        return self.outline.training_steps

    @property
    def sampling(self) -> Mapping[str, object]:
        """Return what besides the weights decides generated pictures and trajectories."""
        return self.outline.sampling

    def parameters(self, which: str = "attributed") -> dict[str, tuple[int, ...]]:
        """Return the shape of each differentiated parameter by name, in the order of `Denoiser.attributed_parameters`.

        Args:
            which: as in `GradientSource.parameters`.

        Raises:
            UsageError: where the model has no such parameters.
        """
        return {name: tuple(p.shape) for name, p in self.outline.attributed_parameters(which).items()}

    def timesteps(self, grid: TimestepGrid) -> tuple[float, ...]:
        """Return the timesteps of a grid, in the network's units."""
        return self.outline.timesteps(grid)

    def sampler_timesteps(self) -> tuple[float, ...]:
        """Return the timesteps that the sampler visits, in its order.

        Raises:
            Unavailable: where the model cannot say.
        """
        return self.outline.sampler_timesteps()

    def checkpoints(self) -> tuple[str, ...]:
        """Return the names of weights from earlier in training, earliest first; `final` is not among them."""
        return self.outline.checkpoints()

    def resolve(self, checkpoint: str) -> str:
        """Return the name behind `k/n`, as `Denoiser.resolve`."""
        return self.outline.resolve(checkpoint)

    def fingerprint_at(self, checkpoint: str) -> str:
        """Return the fingerprint of the model with the weights of a checkpoint, as `Denoiser.fingerprint_at`."""
        return self.outline.fingerprint_at(checkpoint)

    def learning_rate(self, checkpoint: str) -> float:
        """Return the learning rate at a checkpoint.

        Raises:
            UsageError: where it is not known.
        """
        return self.outline.learning_rate(checkpoint)

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        """Return the indices of the prompts that are longer than the text encoders take."""
        return self.outline.truncated(prompts)
