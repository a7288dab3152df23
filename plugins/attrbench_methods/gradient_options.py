"""The options that all gradient methods share: what is differentiated, and where."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from attrbench.features import GradientSource, TimestepGrid
from attrbench.options import Options


class GradientOptions(Options):
    """What decides a gradient (see `attrbench.features.GradientSource`)."""

    grid: Literal["cubic", "uniform"] = "cubic"
    """`cubic`: the released DMin code's timesteps, dense at the noisiest end; `uniform`: evenly spaced from 0."""
    timesteps: int = Field(5, ge=1, le=1000)
    """Number of timesteps, T."""
    noise: Literal["shared", "per-timestep", "per-item"] = "shared"
    """`shared`: one noise for all items and timesteps, as DMin; else one a timestep, or one an item and timestep."""
    noise_seed: int = Field(0, ge=0)
    """Seed of the noise."""
    image_range: Literal["model", "unit"] = "model"
    """`model`: the range the network was trained on; `unit`: the [0, 1] that DMin's released code feeds to DDPMs."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """`fp32`: the reference; `tf32`: TensorFloat-32 products on GPUs that have them; `bf16`: bfloat16 autocast."""

    def source(self, output: Literal["loss", "squared-norm"] = "loss") -> GradientSource:
        """The gradient that these options describe, by default that of the training loss."""
        return GradientSource(
            output=output,
            grid=TimestepGrid(kind=self.grid, steps=self.timesteps),
            noise=self.noise,
            noise_seed=self.noise_seed,
            image_range=self.image_range,
            precision=self.precision,
        )
