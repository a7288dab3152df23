"""Options that all gradient methods share: the differentiated scalar, timesteps, noise, precision and sketch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from attrbench.contracts.gradient_source import GradientSource, Sketch, SketchForm, TimestepGrid
from attrbench.contracts.options import Options
from attrbench.contracts.seeds import Seed
from attrbench.features.gradient_rows import GradientRows

Output = Literal["loss", "weighted-loss", "squared-norm", "mean", "l1", "l2", "linf"]
"""Scalars that can be differentiated (see `attrbench.contracts.gradient_source.GradientSource`)."""


class GradientOptions(Options):
    """Options that define a gradient: timesteps, noise, differentiated scalar, target, prompt and precision.

    All gradient methods derive their options from these. A method gives other defaults by declaring an option again,
    and fixes one by declaring it as a `ClassVar`, so that it is not offered.
    """

    needs: ClassVar = {"target": "output=loss|weighted-loss"}
    aliases: ClassVar = {"normalise": "normalize"}
    grid: Literal["cubic", "uniform", "random"] = "cubic"
    """`cubic`: timesteps of DMin's released code, dense at the noisiest end; `uniform`: evenly spaced from 0, as
    D-TRAK; `random`: drawn with replacement."""
    timesteps: int = Field(5, ge=1, le=1000)
    """Number of timesteps, T."""
    noise: Literal["shared", "per-timestep", "per-item"] = "shared"
    """`shared`: one noise for all items and timesteps, as DMin; `per-timestep`: one for each timestep; `per-item`: one
    for each item and timestep, as D-TRAK."""
    noise_seed: Seed = 0
    """Seed of the noise."""
    output: Output = "loss"
    """Scalar that is differentiated. `loss`: mean squared error to the target; `weighted-loss`: the same with the
    weight of the variational bound; of the network's output alone: `squared-norm`, its mean square (D-TRAK); `mean`;
    `l1`, `l2`, `linf`, its norms."""
    target: Literal["trained", "noise"] = "trained"
    """Target of the loss. `trained`: what the network learned to predict; `noise`: the noise, as in DMin's released
    code. They differ for SD 3 (velocity) and for v-prediction."""
    normalize: bool = False
    """Whether the whole gradient of each timestep is scaled to unit norm before anything else is done with it."""
    prompt: Literal["own", "empty"] = "own"
    """Prompt that the network is given. `own`: the item's; `empty`: the empty prompt for all items and queries. Models
    without prompts refuse `empty`."""
    image_range: Literal["model", "unit"] = "model"
    """Range of the pixels. `model`: as in training; `unit`: [0, 1], as DMin's released code feeds to DDPMs."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """`fp32`: the reference; `tf32`: TensorFloat-32 products on GPUs that have them; `bf16`: bfloat16 autocast."""

    def source(self, output: Output | None = None, checkpoint: str = "final") -> GradientSource:
        """Return the `GradientSource` of these options, which tells the framework which gradients to compute.

        Args:
            output: scalar that is differentiated, where it is not the option's.
            checkpoint: name of the weights, as `Denoiser.at` takes it.
        """
        return GradientSource(
            output=self.output if output is None else output,
            grid=TimestepGrid(kind=self.grid, steps=self.timesteps),
            noise=self.noise,
            noise_seed=self.noise_seed,
            target=self.target,
            prompt=self.prompt,
            image_range=self.image_range,
            checkpoint=checkpoint,
            precision=self.precision,
        )


class AveragedGradientOptions(GradientOptions):
    """Gradient options with D-TRAK's timesteps and noise as defaults, for methods that average over timesteps."""

    grid: Literal["cubic", "uniform", "random"] = "uniform"
    timesteps: int = Field(10, ge=1, le=1000)
    """Number of timesteps, K, over which gradients are averaged."""
    noise: Literal["shared", "per-timestep", "per-item"] = "per-item"


class SketchedGradientOptions(GradientOptions):
    """Gradient options for methods that compress gradients by random projection: length, form, seed of the sketch."""

    needs: ClassVar = {"sketch": "v", "seed": "v"}
    v: int | None = Field(4096, ge=1)
    """Length of the sketch of each timestep's gradient; `none` takes whole gradients."""
    sketch: SketchForm = "rotation"
    """Form of the sketch; all are unbiased. `factored` projects the inputs of wide layers before weight gradients are
    formed, a cheaper pass with larger errors. `permutation` is that of DMin's released code, at 5 bytes a parameter."""
    seed: Seed = 42
    """Seed of the sketch."""

    def sketching(self) -> Sketch | None:
        """Return the length, seed and form of the gradient sketch, or None where gradients stay whole."""
        return None if self.v is None else Sketch(length=self.v, seed=self.seed, form=self.sketch)


class MeanGradientOptions(AveragedGradientOptions, SketchedGradientOptions):
    """Options of methods that store one sketched gradient per item, averaged over the timesteps."""

    v: int | None = Field(4096, ge=1)
    """Length of the sketch of the mean gradient; `none` keeps whole gradients."""

    @property
    def averaging(self) -> Literal["mean", "mean-normalized"]:
        """Return `mean`, or `mean-normalized` where each timestep's gradient is first scaled to unit norm."""
        return "mean-normalized" if self.normalize else "mean"

    def rows(self, checkpoint: str = "final") -> GradientRows:
        """Return the feature that declares each item's sketched mean gradient, at a named checkpoint's weights."""
        return GradientRows(
            source=self.source(checkpoint=checkpoint), sketch=self.sketching(), timesteps=self.averaging
        )
