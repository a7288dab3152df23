"""Declarations of per-sample gradients: timesteps, noise, parameters, weights, and the sketch that compresses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from attrbench.contracts.model_config import Parameters
from attrbench.contracts.seeds import Seed
from attrbench.errors import Unavailable

DeclarationT = TypeVar("DeclarationT")


class Declaration(BaseModel):
    """Base class of declarations such as gradient sources: frozen, hashable values with validated fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TimestepGrid(Declaration):
    """The rule that chooses the T diffusion timesteps at which an item's gradient is taken, such as `uniform`.

    Attributes:
        kind: `cubic`, the grid of DMin's released code, dense at the noisiest end;
            `uniform`, the grid of D-TRAK: 0, s, 2s, ... with s = 1000 // steps; `random`, drawn from all timesteps
            with replacement; `sampler`, `steps` of those that the sampler visits, in its order; `single`,
            timestep `at`, `steps` times. Flow-matching models, whose timesteps are real numbers, count their training
            timesteps 0, 1, ... from the cleanest.
        steps: the number of timesteps, T; None: as many as the sampler visits, for `sampler` alone.
        at: the timestep of `single`.
        seed: of `random`.
    """

    kind: Literal["cubic", "uniform", "random", "sampler", "single"] = "cubic"
    steps: int | None = Field(5, ge=1, le=1000)
    at: int = Field(0, ge=0)
    seed: Seed = 0

    @model_validator(mode="after")
    def _all_but_samplers_need_steps(self) -> TimestepGrid:
        if self.steps is None and self.kind != "sampler":
            raise ValueError(f"steps=none: the grid {self.kind} needs a number of timesteps")
        return self


class Prompted(Protocol):
    """Protocol of a diffusion model, or a description of one, that says whether it takes prompts."""

    @property
    def takes_prompts(self) -> bool:
        """Return whether the diffusion model is conditioned on prompts."""


class GradientSource(Declaration):
    """The declaration of per-sample gradients: scalar output, timesteps, noise, parameters, checkpoint, precision.

    Attributes:
        output: the scalar that is differentiated (attrbench.gradients.model_outputs): `loss`, the mean squared error to
            the target; `weighted-loss`, the same with the weight of the variational bound; `squared-norm`, the mean
            square of the network's output (D-TRAK); `mean`, its mean (DAS); `l1`, `l2`, `linf`, its norms.
        grid: the timesteps.
        noise: `shared`, one noise tensor for all items and timesteps (DMin); `per-timestep`; or `per-item`,
            one for each item and timestep.
        noise_seed: seed of that noise.
        image_range: `model`, the range the network was trained on, or `unit`, the [0, 1] that DMin's released
            code feeds to networks trained on [-1, 1].
        target: what the network's output is compared with: `trained`, what it learned to predict (noise, v or
            velocity); or `noise`, the choice of DMin's released code whatever the network predicts, which differs for
            flow-matching models and for v-prediction.
        prompt: what the network is given as prompt: `own`, the item's; or `empty`, the empty prompt for every item.
            Models without prompts refuse `empty`. Trajectories are those of the item's own prompt.
        parameters: which parameters are differentiated: `attributed`, those that the model's own source names
            (attrbench.models.config); or one of the names that it chooses from.
        checkpoint: the weights (`Denoiser.at`): `final`; `untrained`, drawn anew; `other-seed`, of the same training
            with another seed; `k/n` of the way through training; or one of those that the model lists.
        latents: what is noised: `clean`, the item itself; or `trajectory`, the estimate of it that the sampler had at
            each of its steps (Journey-TRAK), for generated items and the grids `sampler` and `single`.
        precision: `fp32`, the reference; `tf32`, products in TensorFloat-32 on GPUs; `bf16`, bfloat16 autocast.
    """

    output: Literal["loss", "weighted-loss", "squared-norm", "mean", "l1", "l2", "linf"] = "loss"
    grid: TimestepGrid = TimestepGrid()
    noise: Literal["shared", "per-timestep", "per-item"] = "shared"
    noise_seed: Seed = 0
    image_range: Literal["model", "unit"] = "model"
    target: Literal["trained", "noise"] = "trained"
    prompt: Literal["own", "empty"] = "own"
    parameters: Literal["attributed", Parameters] = "attributed"
    checkpoint: str = "final"
    latents: Literal["clean", "trajectory"] = "clean"
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"

    @model_serializer(mode="wrap")
    def _without_own_prompt(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Serialize the fields, omitting `prompt` at its default, so that older caches keep their keys."""
        fields: dict[str, Any] = serialize(self)
        return {name: value for name, value in fields.items() if (name, value) != ("prompt", "own")}

    @property
    def row_key(self) -> Literal["item", "image", "trajectory"]:
        """Return what of an item its gradients depend on, by which they are stored (`Items.keys_of`)."""
        if self.latents == "trajectory":
            return "trajectory"
        return "image" if self.prompt == "empty" else "item"

    def check_prompt(self, model: Prompted) -> None:
        """Raise an error if the source asks for the empty prompt and the model takes no prompts.

        Raises:
            Unavailable: where `prompt` is `empty` and the model takes none.
        """
        if self.prompt == "empty" and not model.takes_prompts:
            raise Unavailable("prompt=empty: this model takes no prompts")


SketchForm = Literal["rotation", "factored", "permutation", "rademacher", "gaussian"]
"""The forms of sketches, which `attrbench.gradients.sketching.forms` makes: `rotation`, which keeps no state but the
seed; `factored`, a rotation of gradients whose layers' inputs are projected before any weight gradient is formed;
`permutation`, DMin's own form; `rademacher` and `gaussian`, dense random projections."""


class Sketch(Declaration):
    """A random linear sketch that compresses a gradient to `length` numbers and can be rebuilt from `seed` alone.

    Attributes:
        length: v.
        seed: of all its random draws.
        form: kind of compression (`SketchForm`).
    """

    length: int = Field(ge=1)
    seed: Seed = 42
    form: SketchForm = "rotation"


def with_sources(declaration: DeclarationT, change: Callable[[GradientSource], GradientSource]) -> DeclarationT:
    """Return a declaration with `change` applied to every gradient source in its fields; anything else as it is."""
    if not isinstance(declaration, BaseModel):
        return declaration
    values = {name: getattr(declaration, name) for name in type(declaration).model_fields}
    changed = {name: change(value) for name, value in values.items() if isinstance(value, GradientSource)}
    return declaration.model_copy(update=changed) if changed else declaration


Layers = Literal["all", "module", "parameter"]
"""How a gradient is cut: not at all, by module (weight and bias together), or by parameter."""
