"""The base class of denoisers that are sampled by one of diffusers' schedulers."""

from __future__ import annotations

from typing import Any

from attrbench.contracts.denoiser import Denoiser


class Sampled(Denoiser):
    """A base class of denoisers that generate images by one of diffusers' schedulers.

    Attributes:
        sampler: scheduler of diffusers.
        sampling_steps: its steps in `generate`.
    """

    sampler: Any
    sampling_steps: int

    def start_sampler(self) -> None:
        """Set the scheduler's timesteps before sampling; a family whose scheduler takes more arguments overrides it."""
        self.sampler.set_timesteps(self.sampling_steps)
