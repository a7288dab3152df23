"""The discrete-time noise process of DDPMs (Ho et al. 2020, arXiv:2006.11239), by diffusers' DDPMScheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.errors import AttrbenchError
from attrbench.models.sampled import Sampled
from attrbench.models.timesteps import grid_timesteps


class DiscreteTime(Sampled):
    """A base of DDPM denoisers: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, sampled by deterministic DDIM.

    Attributes:
        scheduler: the noise process, diffusers' DDPMScheduler.
        sampler: DDIM over the same process.
    """

    scheduler: Any

    def timesteps(self, grid: TimestepGrid) -> tuple[int, ...]:
        """Return the timesteps of a grid for a model in discrete time, as integers (see `grid_timesteps`)."""
        return grid_timesteps(grid, self.training_steps, self.sampler_timesteps)

    def sampler_timesteps(self) -> tuple[int, ...]:
        """Return the timesteps that the DDIM sampler visits, noisiest first."""
        self.start_sampler()
        return tuple(self.sampler.timesteps.tolist())

    def noisy(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return noised latents x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps at the timesteps t."""
        noised: torch.Tensor = self.scheduler.add_noise(latents, noise, t)
        return noised

    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the regression target of the network: the noise, or the velocity if trained with `v_prediction`."""
        if self.scheduler.config["prediction_type"] == "v_prediction":
            velocity: torch.Tensor = self.scheduler.get_velocity(latents, noise, t)
            return velocity
        return noise

    def loss_weights(self, t: torch.Tensor) -> torch.Tensor:
        """Return the variational bound's loss weights beta_t / (2 alpha_t (1 - abar_t)) (Ho et al., Eq. 12)."""
        t = t.cpu()
        beta, alpha = self.scheduler.betas[t], self.scheduler.alphas[t]
        weights: torch.Tensor = beta / (2 * alpha * (1 - self.scheduler.alphas_cumprod[t]))
        return weights


def check_prediction(config: Mapping[str, Any], model: object) -> None:
    """Raise an error for a model that predicts neither noise nor velocity, by its scheduler's configuration.

    Args:
        config: of the scheduler.
        model: what the message calls it.

    Raises:
        AttrbenchError: where the model predicts something else than noise or velocity.
    """
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise AttrbenchError(f"model {model} predicts {prediction}, not noise or v")
