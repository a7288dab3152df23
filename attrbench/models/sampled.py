"""Denoisers that one of diffusers' schedulers samples from."""

from __future__ import annotations

from typing import Any

from attrbench.contracts.denoiser import Denoiser


class Sampled(Denoiser):
    """A denoiser with a sampler.

    Attributes:
        sampler: scheduler of diffusers.
        sampling_steps: its steps in `generate`.
    """

    sampler: Any
    sampling_steps: int

    def start_sampler(self) -> None:
        """Set the sampler to its first step; override it where the sampler must be told more (FLUX's `mu`, say)."""
        self.sampler.set_timesteps(self.sampling_steps)
