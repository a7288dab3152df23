"""Rectified flows: straight paths from data to noise with real timesteps (Esser et al. 2024, arXiv:2403.03206)."""

from __future__ import annotations

import torch

from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.models.sampled import Sampled
from attrbench.models.timesteps import flow_timesteps


class RectifiedFlow(Sampled):
    """A base of rectified-flow denoisers: x_s = (1 - s) x_0 + s eps, target eps - x_0, timestep `training_steps` * s.

    Attributes:
        schedule: the training timesteps, cleanest first, as the constructor of diffusers'
            FlowMatchEulerDiscreteScheduler makes them.
    """

    schedule: tuple[float, ...]

    def timesteps(self, grid: TimestepGrid) -> tuple[float, ...]:
        """Return the timesteps of a grid for a flow model, from its training schedule (see `flow_timesteps`)."""
        return flow_timesteps(grid, self.schedule, self.sampler_timesteps)

    def sampler_timesteps(self) -> tuple[float, ...]:
        """Return the timesteps that the Euler sampler visits, noisiest first."""
        self.start_sampler()
        return tuple(self.sampler.timesteps.tolist())

    def noisy(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return noised latents x_s = (1 - s) x_0 + s eps, where s is timestep / `training_steps`."""
        sigma = (t / self.training_steps).to(latents.dtype).reshape(-1, 1, 1, 1)
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the regression target of the network: the velocity eps - x_0 of the straight path to the noise."""
        return noise - latents
