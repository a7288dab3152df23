"""Stable Diffusion 1.x: diffusers' UNet2DConditionModel, which predicts noise or v, in discrete time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.models.config import ModelConfig
from attrbench.models.discrete_time import DiscreteTime, check_prediction
from attrbench.models.encoders import PipelineEncoders
from attrbench.models.latent_model import LatentDenoiser, Parts
from attrbench.models.timesteps import stable_diffusion_timesteps


class StableDiffusionDenoiser(LatentDenoiser, DiscreteTime):
    """Sampled by deterministic DDIM (eta 0) with guidance, whatever the pipeline's own sampler.

    Args:
        parts: the model.
        source: how it is used.
        device: where the network runs.
    """

    def __init__(self, parts: Parts, source: ModelConfig, device: torch.device) -> None:
        from diffusers import DDIMScheduler, DDPMScheduler

        super().__init__(parts, source, device)
        config = parts.scheduler.config
        check_prediction(config, source.model)
        self.scheduler = DDPMScheduler.from_config(config)
        # latents are not bounded as pixels are, and PNDM's own configuration does not say so
        self.sampler = DDIMScheduler.from_config(config, clip_sample=False, thresholding=False)
        self.training_steps = int(self.scheduler.config["num_train_timesteps"])
        size = parts.encoders.latent_size
        self.latent_shape = (int(parts.network.config.in_channels), size, size)
        self.sampling = {"sampler": "ddim", "steps": source.sampling_steps, "guidance": source.guidance_scale}

    def timesteps(self, grid: TimestepGrid) -> tuple[int, ...]:
        """See `attrbench.models.timesteps.stable_diffusion_timesteps`."""
        return stable_diffusion_timesteps(grid, self.training_steps, self.sampler_timesteps)

    def _network(self, x: torch.Tensor, t: torch.Tensor, text: Mapping[str, torch.Tensor]) -> torch.Tensor:
        output: torch.Tensor = self.module(x, t, encoder_hidden_states=text["text"], return_dict=False)[0]
        return output

    def _step(self, output: torch.Tensor, t: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        step = self.sampler.step(output, t, x, eta=0.0)
        return step.prev_sample, step.pred_original_sample


class StableDiffusionEncoders(PipelineEncoders):
    """The last hidden states of one CLIP text encoder, padded to its length."""

    names = ("text",)

    def _texts_of(self, prompts: list[str]) -> Mapping[str, torch.Tensor]:
        embeddings, _ = self._pipeline.encode_prompt(prompts, self._device, 1, False)
        return {"text": embeddings}

    def _limits(self) -> Sequence[tuple[Any, int]]:
        tokenizer = self._pipeline.tokenizer
        return [(tokenizer, int(tokenizer.model_max_length))]
