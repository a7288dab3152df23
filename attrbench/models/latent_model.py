"""Denoisers over the latents of an autoencoder, conditioned on prompts, with a LoRA or without."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.contracts.denoiser import Encoded
from attrbench.contracts.model_config import ModelConfig
from attrbench.errors import UsageError
from attrbench.models.checkpointed import Checkpointed
from attrbench.models.discrete_time import DiscreteTime, check_prediction
from attrbench.models.encoders import CHUNK, Encoders
from attrbench.models.late import diffusers
from attrbench.models.lora import load_lora_state
from attrbench.models.noise import gaussian
from attrbench.models.sampled import Sampled


@dataclass(frozen=True)
class Parts:
    """The components of a latent denoiser: network, scheduler, encoders, fingerprint and checkpoint folder.

    Attributes:
        network: UNet or transformer, with the LoRA in it where there is one.
        scheduler: diffusers' scheduler of the pipeline.
        encoders: before and behind it.
        fingerprint: of all weights, and of how they are used.
        checkpoint_folder: where its earlier weights lie.
        adapter_summary: one line on the LoRA, empty where there is none.
    """

    network: Any
    scheduler: Any
    encoders: Encoders
    fingerprint: str
    checkpoint_folder: Path
    adapter_summary: str = ""


class LatentDenoiser(Checkpointed, Sampled):
    """A base class of denoisers over an autoencoder's latents, with prompts, guidance and optional LoRA.

    Subclasses give the noise process (`DiscreteTime` or `RectifiedFlow`), the call of the network and a step of the
    sampler, and set `sampler`, `sampling` and `training_steps`.

    Args:
        parts: the model.
        config: how it is used.
        device: where the network runs.
    """

    has_latents = True
    takes_prompts = True
    attributed_words: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "all": (),
        "lora": ("lora", "transformer_blocks"),
        "whole-lora": ("lora",),
        "transformer-blocks": ("transformer_blocks",),
    }
    """What the names of the attributed parameters contain, for each choice of `ModelConfig.attributed`; a family that
    names its parameters otherwise gives those choices that it changes."""

    def __init__(self, parts: Parts, config: ModelConfig, device: torch.device) -> None:
        if config.gradient_checkpointing:
            parts.network.enable_gradient_checkpointing()
        self.module = parts.network.to(device).eval()
        self.device = device
        self.config = config
        self.encoders = parts.encoders
        self.image_shape = parts.encoders.image_shape
        size = parts.encoders.latent_size
        self.latent_shape = (self.latent_channels(parts.network.config), size, size)
        self.fingerprint = parts.fingerprint
        self.checkpoint_folder = parts.checkpoint_folder
        self.adapter_summary = parts.adapter_summary
        self.adapter_part = self._adapter_part()
        self.sampling_steps = config.sampling_steps

    def latent_channels(self, network: Any) -> int:
        """Return the number of channels of the latents: `in_channels` of the network, unless a family packs them."""
        return int(network.in_channels)

    def encode(
        self, images: NDArray[np.uint8], prompts: Sequence[str], image_range: Literal["model", "unit"]
    ) -> Encoded:
        """Return the latents of images and the conditioning of their prompts; encoded items are cached in memory."""
        return Encoded(self.encoders.latents(images, image_range).to(self.device), self._conditioning(prompts))

    def forgetful(self) -> LatentDenoiser:
        """Return this model with encoders that remember nothing yet: what is encoded beside an item may round it."""
        other = copy.copy(self)
        other.encoders = self.encoders.forgetful()
        return other

    def _conditioning(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        return {name: value.to(self.device) for name, value in self.encoders.conditioning(prompts).items()}

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        """Return the indices of the prompts that are too long for a text encoder and get truncated."""
        return self.encoders.truncated(prompts)

    def attributed_parameters(self, which: str) -> dict[str, torch.nn.Parameter]:
        """Return the parameters to differentiate by name: those of the LoRA, transformer blocks, or all.

        Raises:
            UsageError: where the model has none of them.
        """
        choice = self._choice(which)
        if not (named := self._named(choice)):
            elsewhere = "; attributed=whole-lora takes those of its LoRA" if self._named("whole-lora") else ""
            raise UsageError(f"attributed={choice}: model {self.config.model} has no such parameters{elsewhere}")
        return named

    def _choice(self, which: str) -> str:
        """Return the name of a choice of parameters in place of `attributed` and `auto`."""
        which = self.config.attributed if which == "attributed" else which
        if which == "auto":
            return "transformer-blocks" if self.config.lora is None else "lora"
        return which

    def _named(self, choice: str) -> dict[str, torch.nn.Parameter]:
        """Return the network's parameters of a choice by name; empty where it has none."""
        words = {**LatentDenoiser.attributed_words, **self.attributed_words}[choice]
        return {n: parameter for n, parameter in self.module.named_parameters() if all(word in n for word in words)}

    def _adapter_part(self) -> str:
        """Return one line on how much of the LoRA is differentiated; empty where that is all of it."""
        choice = self._choice("attributed")
        whole, chosen = self._named("whole-lora"), self._named(choice)
        sizes = [sum(whole[name].numel() for name in names) for names in (whole.keys() & chosen, whole)]
        if sizes[0] == sizes[1]:
            return ""
        return (
            f"attributed={choice}: {sizes[0]:,} of the LoRA's {sizes[1]:,} parameters are differentiated;"
            " attributed=whole-lora takes all"
        )

    def predict(self, noisy: torch.Tensor, t: torch.Tensor, conditioning: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the network's prediction, computed in the network's precision and cast to that of `noisy`."""
        dtype = next(self.module.parameters()).dtype
        given = {name: value.to(dtype) if value.is_floating_point() else value for name, value in conditioning.items()}
        return self.call_network(noisy.to(dtype), t, given).to(noisy.dtype)

    @abstractmethod
    def call_network(self, x: torch.Tensor, t: torch.Tensor, conditioning: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the network's prediction for noisy latents and conditioning, [B, C, H, W]; subclasses implement it.

        Args:
            x: [B, C, H, W] noisy latents, in the network's precision.
            t: [B] timesteps.
            conditioning: what the encoders made of the prompts; floating point tensors in the network's precision.
        """

    @abstractmethod
    def sampler_step(self, output: torch.Tensor, t: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sample after one step of the sampler, and its prediction of the clean latents."""

    def unconditional(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the unconditional conditioning of classifier-free guidance: empty prompts, as many as `prompts`."""
        return self._conditioning([""] * len(prompts))

    def _load(self, checkpoint: str) -> torch.nn.Module:
        if self.config.lora is None:
            return super()._load(checkpoint)
        shared = {id(p): p for name, p in self.module.named_parameters() if "lora" not in name}  # only the LoRA differs
        module: torch.nn.Module = copy.deepcopy(self.module, shared)
        load_lora_state(module, self._files()[checkpoint])
        return module

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Return images [m, H, W, C] uint8 sampled with guidance from each seed's noise, in small batches.

        With random weights the network is not called: its pictures would mean no more than the noise itself.
        """
        parts = []
        for few in _few(prompts, seeds):
            x = self._noise(few[1])
            if self.config.weights == "trained":
                x, _ = deque(self._sample(*few), maxlen=1).pop()
            parts.append(self.encoders.pictures(x))
        return np.concatenate(parts)

    def _noise(self, seeds: Sequence[int]) -> torch.Tensor:
        return torch.stack([gaussian(self.latent_shape, "generate", seed) for seed in seeds]).to(self.device)

    def trajectory(self, prompts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """Return the sampler's prediction of the clean latents at each step, with guidance: [B, steps, C, H, W]."""
        steps = (torch.stack([clean for _, clean in self._sample(*few)], dim=1) for few in _few(prompts, seeds))
        return torch.cat(list(steps))

    @torch.no_grad()
    def _sample(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Run the guided sampler from each seed's noise; yield (sample, predicted clean latents) after each step."""
        scale = self.config.guidance_scale
        conditioning = self._conditioning(prompts)
        if guided := scale > 1:
            blank = self.unconditional(prompts)
            conditioning = {name: torch.cat([blank[name], value]) for name, value in conditioning.items()}
        x = self._noise(seeds)
        self.start_sampler()
        for t in self.sampler.timesteps:
            times = t.to(self.device).expand(len(x) * (2 if guided else 1))
            output = self.predict(torch.cat([x, x]) if guided else x, times, conditioning)
            if guided:
                without, given = output.chunk(2)
                output = without + scale * (given - without)
            x, clean = self.sampler_step(output, t, x)
            yield x, clean


class DiscreteLatentDenoiser(LatentDenoiser, DiscreteTime):
    """A latent denoiser in discrete time (DDPM), always sampled with guidance by deterministic DDIM (eta 0).

    Args:
        parts: the model.
        config: how it is used.
        device: where the network runs.
    """

    def __init__(self, parts: Parts, config: ModelConfig, device: torch.device) -> None:
        super().__init__(parts, config, device)
        process = parts.scheduler.config
        check_prediction(process, config.model)
        self.scheduler = diffusers.DDPMScheduler.from_config(process)
        # latents are not bounded as pixels are, and PNDM's own configuration does not say so
        self.sampler = diffusers.DDIMScheduler.from_config(process, clip_sample=False, thresholding=False)
        self.training_steps = int(self.scheduler.config["num_train_timesteps"])
        self.sampling = {"sampler": "ddim", "steps": config.sampling_steps, "guidance": config.guidance_scale}

    def sampler_step(self, output: torch.Tensor, t: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sample after one deterministic DDIM step, and the predicted clean latents."""
        step = self.sampler.step(output, t, x, eta=0.0)
        return step.prev_sample, step.pred_original_sample


def _few(prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[Sequence[str], Sequence[int]]]:
    for first in range(0, len(seeds), CHUNK):
        yield prompts[first : first + CHUNK], seeds[first : first + CHUNK]
