"""The model family Stable Diffusion 3: transformers (MMDiT) that predict the velocity of a rectified flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from attrbench.contracts.model_config import ModelConfig
from attrbench.contracts.model_family import Architecture
from attrbench.errors import AttrbenchError
from attrbench.models.late import diffusers
from attrbench.models.latent_family import LatentFamily
from attrbench.models.latent_model import LatentDenoiser, Parts
from attrbench.models.pipeline_encoders import PipelineEncoders
from attrbench.models.rectified_flow import RectifiedFlow

T5_TOKENS = 256
"""How many tokens diffusers gives to T5 by default."""
TOKENS = 77 + T5_TOKENS
"""CLIP's tokens and T5's behind them."""
SD3_MEDIUM = Architecture(
    network={
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 24,
        "attention_head_dim": 64,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 192,
    },
    scheduler={"num_train_timesteps": 1000, "shift": 3.0},
)
"""Configurations of stabilityai/stable-diffusion-3-medium-diffusers."""


class StableDiffusion3Denoiser(LatentDenoiser, RectifiedFlow):
    """The denoiser of Stable Diffusion 3: a rectified flow over latents, sampled by Euler steps with guidance.

    Args:
        parts: the model.
        config: how it is used.
        device: where the network runs.
    """

    def __init__(self, parts: Parts, config: ModelConfig, device: torch.device) -> None:
        super().__init__(parts, config, device)
        process = parts.scheduler.config
        if process.get("use_dynamic_shifting"):
            raise AttrbenchError(f"model {config.model} shifts its timesteps by resolution, which is not supported")
        self.sampler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(process)
        self.training_steps = int(process["num_train_timesteps"])
        self.schedule = tuple(reversed(self.sampler.timesteps.tolist()))
        self.sampling = {"sampler": "euler", "steps": config.sampling_steps, "guidance": config.guidance_scale}

    def call_network(self, x: torch.Tensor, t: torch.Tensor, conditioning: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the transformer's velocity prediction for noisy latents and text embeddings, [B, C, H, W]."""
        output: torch.Tensor = self.module(
            x,
            encoder_hidden_states=conditioning["text"],
            pooled_projections=conditioning["pooled"],
            timestep=t,
            return_dict=False,
        )[0]
        return output

    def sampler_step(self, output: torch.Tensor, t: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sample after one Euler step of the flow, and the predicted clean latents x - s v."""
        clean = x - t.to(x) / self.training_steps * output
        return self.sampler.step(output, t, x, return_dict=False)[0], clean


class StableDiffusion3Encoders(PipelineEncoders):
    """Encoders of Stable Diffusion 3: embeddings of two CLIP text encoders and T5, and pooled CLIP embeddings."""

    names = ("text", "pooled")

    def prompt_embeddings(self, prompts: list[str]) -> Mapping[str, torch.Tensor]:
        """Return the prompts' embeddings: `text` [B, tokens, width] of CLIP and T5, and `pooled` [B, width] of CLIP."""
        text, _, pooled, _ = self.pipeline.encode_prompt(
            prompts,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self._t5_tokens,
        )
        return {"text": text, "pooled": pooled}

    @property
    def _t5_tokens(self) -> int:
        tokenizer = self.pipeline.tokenizer_3
        return T5_TOKENS if tokenizer is None else min(T5_TOKENS, int(tokenizer.model_max_length))

    def tokenizer_limits(self) -> Sequence[tuple[Any, int]]:
        """Return the tokenizers of both CLIPs and of T5 (if present) with their maximum numbers of tokens."""
        limit = int(self.pipeline.tokenizer_max_length)
        limits = [(self.pipeline.tokenizer, limit), (self.pipeline.tokenizer_2, limit)]
        return limits if self.pipeline.tokenizer_3 is None else [*limits, (self.pipeline.tokenizer_3, self._t5_tokens)]


class StableDiffusion3(LatentFamily):
    """The loader of Stable Diffusion 3 models from diffusers pipeline folders."""

    name = "stable-diffusion-3"
    pipelines = ("StableDiffusion3Pipeline",)
    network = "transformer"
    optional_components = ("text_encoder_3", "tokenizer_3")
    denoiser = StableDiffusion3Denoiser
    encoders = StableDiffusion3Encoders
    network_class = "SD3Transformer2DModel"
    scheduler_class = "FlowMatchEulerDiscreteScheduler"
    architectures: ClassVar = {"stabilityai/stable-diffusion-3-medium-diffusers": SD3_MEDIUM}

    def conditioning_shapes(self, network: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of one prompt's text and pooled embeddings, for models with random weights."""
        return {
            "text": (TOKENS, int(network["joint_attention_dim"])),
            "pooled": (int(network["pooled_projection_dim"]),),
        }
