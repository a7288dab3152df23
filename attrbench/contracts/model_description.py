"""Descriptions of diffusion models for plans (hash, shapes, timesteps, parameters), without weights in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attrbench.contracts.denoiser import Denoiser
    from attrbench.contracts.gradient_source import TimestepGrid


@dataclass(frozen=True)
class ModelDescription:
    """The hash, shapes, timesteps and parameters of a diffusion model for a plan, without weights in memory.

    It agrees exactly with the loaded denoiser, because it asks the same class, over a network without weights.

    Attributes:
        outline: the denoiser on the device `meta`. It can say what it is, and compute nothing. (A loaded denoiser will
            do as well, where a task has nothing cheaper.)
    """

    outline: Denoiser

    @property
    def fingerprint(self) -> str:
        """Return the hash of the final weights and of how they are used, as `Denoiser.fingerprint`."""
        return self.outline.fingerprint

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of one item encoded for the network."""
        return self.outline.latent_shape

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return the shape (H, W, C) of one image that the model takes and generates."""
        return self.outline.image_shape

    @property
    def takes_prompts(self) -> bool:
        """Return whether the diffusion model is conditioned on prompts."""
        return self.outline.takes_prompts

    @property
    def has_latents(self) -> bool:
        """Return whether an autoencoder encodes images into latents for the network."""
        return self.outline.has_latents

    @property
    def training_steps(self) -> int:
        """Return the number of diffusion timesteps that the model was trained on."""
        return self.outline.training_steps

    @property
    def sampling(self) -> Mapping[str, object]:
        """Return the settings besides the weights that decide generated images and sampling trajectories."""
        return self.outline.sampling

    @property
    def adapter_summary(self) -> str:
        """Return one line on the LoRA that was added to the network (modules, tensors, rank, scale), or nothing."""
        return self.outline.adapter_summary

    @property
    def adapter_lines(self) -> list[str]:
        """Return lines on the LoRA that was added to the network: what was loaded, and which part is differentiated."""
        return [line for line in (self.adapter_summary, self.outline.adapter_part) if line]

    def parameters(self, which: str = "attributed") -> dict[str, tuple[int, ...]]:
        """Return name -> shape of each differentiated parameter, in the order of `Denoiser.attributed_parameters`.

        Args:
            which: as in `GradientSource.parameters`.

        Raises:
            UsageError: where the model has no such parameters.
        """
        return {name: tuple(p.shape) for name, p in self.outline.attributed_parameters(which).items()}

    def timesteps(self, grid: TimestepGrid) -> tuple[float, ...]:
        """Return the diffusion timesteps that a grid (a rule such as `uniform`) gives, in the network's units."""
        return self.outline.timesteps(grid)

    def sampler_timesteps(self) -> tuple[float, ...]:
        """Return the timesteps that the sampler visits when it generates an image, in its order.

        Raises:
            Unavailable: where the model cannot say.
        """
        return self.outline.sampler_timesteps()

    def checkpoints(self) -> tuple[str, ...]:
        """Return the names of saved weights from earlier in training, earliest first; `final` is not among them."""
        return self.outline.checkpoints()

    def resolve(self, checkpoint: str) -> str:
        """Return the checkpoint name that a fraction `k/n` of training means, as `Denoiser.resolve`."""
        return self.outline.resolve(checkpoint)

    def fingerprint_at(self, checkpoint: str) -> str:
        """Return the hash that identifies the model with a checkpoint's weights, as `Denoiser.fingerprint_at`."""
        return self.outline.fingerprint_at(checkpoint)

    def learning_rate(self, checkpoint: str) -> float:
        """Return the learning rate that training used at a checkpoint.

        Raises:
            UsageError: where it is not known.
        """
        return self.outline.learning_rate(checkpoint)

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        """Return the indices of the prompts that are too long for the text encoders and so are truncated."""
        return self.outline.truncated(prompts)
