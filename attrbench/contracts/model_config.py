"""The declaration of a task's diffusion model and of how it is used, which can be read without importing torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Parameters = Literal["all", "lora", "whole-lora", "transformer-blocks"]
"""The parameters that may be differentiated: all of the network's, or some by their names."""
Attributed = Literal["auto", Parameters]
"""The choices of a task's differentiated parameters; `auto` leaves the choice to the model's family."""


class ModelConfig(BaseModel):
    """Settings of a task's diffusers pipeline: model, LoRA, resolution, differentiated parameters, dtype, sampling.

    Attributes:
        model: id on the Hugging Face hub, or a local folder as `save_pretrained` of a pipeline writes it.
        revision: branch, tag or commit on the hub.
        lora: id, folder or file of LoRA weights, in the spelling of diffusers, peft or kohya.
        lora_revision: branch, tag or commit on the hub.
        resolution: pixels on a side of the images; the model's own by default.
        attributed: which parameters are differentiated. `lora`: those of the LoRA within transformer blocks;
            `whole-lora`: those of the LoRA in all layers of the network; `transformer-blocks`: attention and
            feed-forward layers; `all`. `auto`: `lora` where there is one, else `transformer-blocks` for models over
            latents (as DMin does) and `all` for DDPMs.
        vae: `mode`, the mean of the autoencoder's posterior; or `sample`, a draw from it, decided by the image.
        dtype: of network, text encoders and autoencoder. Losses and gradients come out as float32 in any case.
        offload: text encoders and autoencoder lie in main memory, and on the device only while they are at work.
        gradient_checkpointing: activations are computed twice instead of kept.
        sampling_steps: of `generate`.
        guidance_scale: of `generate`; gradients are always without guidance.
        weights: `trained`; or `random`, the true architecture without its weights, for measuring time and memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    revision: str | None = None
    lora: str | None = None
    lora_revision: str | None = None
    resolution: int | None = Field(None, ge=8)
    attributed: Attributed = "auto"
    vae: Literal["mode", "sample"] = "mode"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    offload: bool = False
    gradient_checkpointing: bool = False
    sampling_steps: int = Field(50, ge=1, le=1000)
    guidance_scale: float = Field(7.5, ge=0)
    weights: Literal["trained", "random"] = "trained"

    @property
    def drawing(self) -> ModelConfig:
        """Return the settings by which pictures that the model draws are kept, whatever is differentiated."""
        return self.model_copy(update={"attributed": "auto"})
