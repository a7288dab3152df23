"""The model family Stable Diffusion 1.x: UNets over latents that predict noise or velocity in discrete time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.contracts.model_family import Architecture
from attrbench.models.latent_family import LatentFamily
from attrbench.models.latent_model import DiscreteLatentDenoiser
from attrbench.models.pipeline_encoders import PipelineEncoders
from attrbench.models.timesteps import stable_diffusion_timesteps

CLIP_TOKENS = 77
SD14 = Architecture(
    network={
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    },
    scheduler={
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "set_alpha_to_one": False,
        "steps_offset": 1,
    },
)
"""Configurations of CompVis/stable-diffusion-v1-4."""


class StableDiffusionDenoiser(DiscreteLatentDenoiser):
    """The denoiser of Stable Diffusion 1.x: a UNet over latents with cross-attention to the prompt's embedding."""

    def timesteps(self, grid: TimestepGrid) -> tuple[int, ...]:
        """Return the timesteps of a grid, with DMin's own `cubic` grid for Stable Diffusion 1.x."""
        return stable_diffusion_timesteps(grid, self.training_steps, self.sampler_timesteps)

    def call_network(self, x: torch.Tensor, t: torch.Tensor, conditioning: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the UNet's prediction of noise or velocity for noisy latents and text embeddings, [B, C, H, W]."""
        output: torch.Tensor = self.module(x, t, encoder_hidden_states=conditioning["text"], return_dict=False)[0]
        return output


class StableDiffusionEncoders(PipelineEncoders):
    """Encoders of Stable Diffusion 1.x: prompts become the last hidden states of a CLIP text encoder."""

    names = ("text",)

    def prompt_embeddings(self, prompts: list[str]) -> Mapping[str, torch.Tensor]:
        """Return the prompts' CLIP embeddings as {"text": [B, tokens, width]}."""
        embeddings, _ = self.pipeline.encode_prompt(prompts, self.device, 1, False)
        return {"text": embeddings}

    def tokenizer_limits(self) -> Sequence[tuple[Any, int]]:
        """Return CLIP's tokenizer with its maximum number of tokens, for finding prompts that are too long."""
        tokenizer = self.pipeline.tokenizer
        return [(tokenizer, int(tokenizer.model_max_length))]


class StableDiffusion(LatentFamily):
    """The loader of Stable Diffusion 1.x models from diffusers pipeline folders."""

    name = "stable-diffusion"
    pipelines = ("StableDiffusionPipeline",)
    network = "unet"
    denoiser = StableDiffusionDenoiser
    encoders = StableDiffusionEncoders
    network_class = "UNet2DConditionModel"
    scheduler_class = "DDIMScheduler"
    architectures: ClassVar = {"CompVis/stable-diffusion-v1-4": SD14}

    def conditioning_shapes(self, network: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return the shape of one prompt's CLIP embedding, for models with random weights."""
        return {"text": (CLIP_TOKENS, int(network["cross_attention_dim"]))}
