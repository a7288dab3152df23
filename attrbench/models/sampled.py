"""The base class of denoisers that are sampled by one of diffusers' schedulers."""

from __future__ import annotations

from typing import Any

from attrbench.contracts.denoiser import Denoiser


class Sampled(Denoiser):
    """A denoiser that is sampled by a diffusers scheduler.

    Attributes:
        sampler: scheduler of diffusers.
        sampling_steps: its steps in `generate`.
    """

    sampler: Any
    sampling_steps: int

    def start_sampler(self) -> None:
        """Initialize the sampler's timesteps; override it if the sampler needs more arguments (FLUX's `mu`, say)."""
        self.sampler.set_timesteps(self.sampling_steps)
