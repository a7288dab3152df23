"""Stable Diffusion 3: diffusers' SD3Transformer2DModel (MMDiT), which predicts the velocity of a rectified flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.errors import AttrbenchError
from attrbench.models.config import ModelConfig
from attrbench.models.encoders import PipelineEncoders
from attrbench.models.latent_model import LatentDenoiser, Parts
from attrbench.models.timesteps import flow_timesteps

T5_TOKENS = 256
"""How many tokens diffusers gives to T5 by default."""


class StableDiffusion3Denoiser(LatentDenoiser):
    """x_s = (1 - s) x_0 + s eps, target eps - x_0; a timestep is 1000 s. Sampled by Euler steps with guidance.

    Args:
        parts: the model.
        source: how it is used.
        device: where the network runs.
    """

    def __init__(self, parts: Parts, source: ModelConfig, device: torch.device) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler

        super().__init__(parts, source, device)
        config = parts.scheduler.config
        if config.get("use_dynamic_shifting"):
            raise AttrbenchError(f"model {source.model} shifts its timesteps by resolution, which is not supported")
        self.sampler = FlowMatchEulerDiscreteScheduler.from_config(config)
        self.training_steps = int(config["num_train_timesteps"])
        # as the constructor leaves them: the shifted schedule of the training, noisiest first
        self._schedule = tuple(reversed(self.sampler.timesteps.tolist()))
        size = parts.encoders.latent_size
        self.latent_shape = (int(parts.network.config.in_channels), size, size)
        self.sampling = {"sampler": "euler", "steps": source.sampling_steps, "guidance": source.guidance_scale}

    def timesteps(self, grid: TimestepGrid) -> tuple[float, ...]:
        """See `attrbench.models.timesteps.flow_timesteps`."""
        return flow_timesteps(grid, self._schedule, self.sampler_timesteps)

    def sampler_timesteps(self) -> tuple[float, ...]:
        """Euler's, noisiest first."""
        self.sampler.set_timesteps(self.sampling_steps)
        return tuple(self.sampler.timesteps.tolist())

    def noisy(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_s = (1 - s) x_0 + s eps with s = t / 1000."""
        sigma = (t / self.training_steps).to(latents.dtype).reshape(-1, 1, 1, 1)
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The velocity eps - x_0."""
        return noise - latents

    def _network(self, x: torch.Tensor, t: torch.Tensor, text: Mapping[str, torch.Tensor]) -> torch.Tensor:
        output: torch.Tensor = self.module(
            x, encoder_hidden_states=text["text"], pooled_projections=text["pooled"], timestep=t, return_dict=False
        )[0]
        return output

    def _step(self, output: torch.Tensor, t: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        clean = x - t.to(x) / self.training_steps * output
        return self.sampler.step(output, t, x, return_dict=False)[0], clean


class StableDiffusion3Encoders(PipelineEncoders):
    """Two CLIP text encoders beside each other and T5 behind them, and the pooled embeddings of the two."""

    names = ("text", "pooled")

    def _texts_of(self, prompts: list[str]) -> Mapping[str, torch.Tensor]:
        text, _, pooled, _ = self._pipeline.encode_prompt(
            prompts,
            None,
            None,
            device=self._device,
            do_classifier_free_guidance=False,
            max_sequence_length=self._t5_tokens,
        )
        return {"text": text, "pooled": pooled}

    @property
    def _t5_tokens(self) -> int:
        tokenizer = self._pipeline.tokenizer_3
        return T5_TOKENS if tokenizer is None else min(T5_TOKENS, int(tokenizer.model_max_length))

    def _limits(self) -> Sequence[tuple[Any, int]]:
        limit = int(self._pipeline.tokenizer_max_length)
        found = [(self._pipeline.tokenizer, limit), (self._pipeline.tokenizer_2, limit)]
        return found if self._pipeline.tokenizer_3 is None else [*found, (self._pipeline.tokenizer_3, self._t5_tokens)]
