"""Noise processes in discrete time (Ho et al. 2020), as diffusers' DDPMScheduler describes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.errors import AttrbenchError
from attrbench.models.timesteps import grid_timesteps


class DiscreteTime(Denoiser):
    """A denoiser of x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, sampled by deterministic DDIM (eta 0).

    Attributes:
        scheduler: the noise process, diffusers' DDPMScheduler.
        sampler: DDIM over the same process.
        sampling_steps: DDIM steps of `generate`.
    """

    scheduler: Any
    sampler: Any
    sampling_steps: int

    def timesteps(self, grid: TimestepGrid) -> tuple[int, ...]:
        """See `attrbench.models.timesteps`."""
        return grid_timesteps(grid, self.training_steps, self.sampler_timesteps)

    def sampler_timesteps(self) -> tuple[int, ...]:
        """DDIM's, noisiest first."""
        self.sampler.set_timesteps(self.sampling_steps)
        return tuple(self.sampler.timesteps.tolist())

    def noisy(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps."""
        noised: torch.Tensor = self.scheduler.add_noise(latents, noise, t)
        return noised

    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The noise, or the velocity for models trained with `v_prediction`."""
        if self.scheduler.config["prediction_type"] == "v_prediction":
            velocity: torch.Tensor = self.scheduler.get_velocity(latents, noise, t)
            return velocity
        return noise

    def loss_weights(self, t: torch.Tensor) -> torch.Tensor:
        """beta_t / (2 alpha_t (1 - abar_t)) (methods-spec 1)."""
        t = t.cpu()
        beta, alpha = self.scheduler.betas[t], self.scheduler.alphas[t]
        weights: torch.Tensor = beta / (2 * alpha * (1 - self.scheduler.alphas_cumprod[t]))
        return weights


def check_prediction(config: Mapping[str, Any], model: object) -> None:
    """Refuses models whose output `DiscreteTime.target` does not know.

    Args:
        config: of the scheduler.
        model: what the message calls it.

    Raises:
        AttrbenchError: where the model predicts something else than noise or velocity.
    """
    predicts = config.get("prediction_type", "epsilon")
    if predicts not in ("epsilon", "v_prediction"):
        raise AttrbenchError(f"model {model} predicts {predicts}, not noise or v")
