"""The options that gradient methods share: what is differentiated, where, and how it is kept."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from attrbench.contracts.feature import FeatureRequest
from attrbench.contracts.gradient_source import GradientSource, Sketch, TimestepGrid
from attrbench.contracts.options import Options
from attrbench.features.gradient_rows import GradientRows


class GradientOptions(Options):
    """What decides a gradient (see `attrbench.contracts.feature.GradientSource`)."""

    grid: Literal["cubic", "uniform", "random"] = "cubic"
    """`cubic`: the released DMin code's timesteps, dense at the noisiest end; `uniform`: evenly spaced from 0;
    `random`: drawn with replacement."""
    timesteps: int = Field(5, ge=1, le=1000)
    """Number of timesteps, T."""
    noise: Literal["shared", "per-timestep", "per-item"] = "shared"
    """`shared`: one noise for all items and timesteps, as DMin; else one a timestep, or one an item and timestep."""
    noise_seed: int = Field(0, ge=0)
    """Seed of the noise."""
    target: Literal["trained", "noise"] = "trained"
    """What the network's output is compared with. `trained`: what it learned to predict; `noise`: the noise, as DMin's
    released code, which is another thing for SD 3 (a velocity) and for v-prediction."""
    image_range: Literal["model", "unit"] = "model"
    """`model`: the range the network was trained on; `unit`: the [0, 1] that DMin's released code feeds to DDPMs."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """`fp32`: the reference; `tf32`: TensorFloat-32 products on GPUs that have them; `bf16`: bfloat16 autocast."""

    def source(
        self, output: Literal["loss", "squared-norm", "mean"] = "loss", checkpoint: str = "final"
    ) -> GradientSource:
        """The gradient that these options describe, by default that of the training loss at the final weights."""
        return GradientSource(
            output=output,
            grid=TimestepGrid(kind=self.grid, steps=self.timesteps),
            noise=self.noise,
            noise_seed=self.noise_seed,
            target=self.target,
            image_range=self.image_range,
            checkpoint=checkpoint,
            precision=self.precision,
        )


class MeanGradientOptions(GradientOptions):
    """For methods over one gradient an item, the mean over timesteps; grid and noise are D-TRAK's by default."""

    needs: ClassVar = {"sketch": "v", "seed": "v"}
    grid: Literal["cubic", "uniform", "random"] = "uniform"
    """`uniform`: evenly spaced from 0, as D-TRAK; `cubic`: the released DMin code's, dense at the noisiest end;
    `random`: drawn with replacement."""
    timesteps: int = Field(10, ge=1, le=1000)
    """Number of timesteps, K, over which gradients are averaged."""
    noise: Literal["shared", "per-timestep", "per-item"] = "per-item"
    """`per-item`: a noise for each item and timestep, as D-TRAK; or one a timestep, or one for everything."""
    v: int | None = Field(4096, ge=1)
    """Length of the sketch of the mean gradient; `none` keeps whole gradients."""
    sketch: Literal["rotation", "permutation", "rademacher", "gaussian"] = "rotation"
    """Form of the sketch; all are unbiased."""
    seed: int = Field(42, ge=0)
    """Seed of the sketch."""

    def rows(
        self,
        output: Literal["loss", "squared-norm", "mean"] = "loss",
        timesteps: Literal["mean", "mean-normalized"] = "mean",
        checkpoint: str = "final",
    ) -> GradientRows:
        """Means over the timesteps of sketched gradients, raw or scaled to unit norm first."""
        sketch = None if self.v is None else Sketch(length=self.v, seed=self.seed, form=self.sketch)
        return GradientRows(source=self.source(output, checkpoint), sketch=sketch, timesteps=timesteps)

    def plan(
        self,
        output: Literal["loss", "squared-norm", "mean"] = "loss",
        timesteps: Literal["mean", "mean-normalized"] = "mean",
        checkpoint: str = "final",
    ) -> FeatureRequest:
        """Return the request of the same rows for training items and queries."""
        return FeatureRequest.both(self.rows(output, timesteps, checkpoint))
