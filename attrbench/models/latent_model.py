"""What Stable Diffusion 1.x and 3 have in common: a network over latents, conditioned on prompts, maybe with LoRA."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.contracts.denoiser import Encoded
from attrbench.errors import UsageError
from attrbench.models.checkpointed import Checkpointed
from attrbench.models.config import ModelConfig
from attrbench.models.encoders import CHUNK, Encoders
from attrbench.models.lora import load_lora_state
from attrbench.models.noise import gaussian

WORDS: dict[str, tuple[str, ...]] = {
    "all": (),
    "lora": ("lora", "transformer_blocks"),
    "transformer-blocks": ("transformer_blocks",),
}
"""What the names of the attributed parameters contain."""


@dataclass(frozen=True)
class Parts:
    """What a latent denoiser is made of.

    Attributes:
        network: UNet or transformer, with the LoRA in it where there is one.
        scheduler: diffusers' scheduler of the pipeline.
        encoders: before and behind it.
        fingerprint: of all weights, and of how they are used.
        checkpoint_folder: where its earlier weights lie.
    """

    network: Any
    scheduler: Any
    encoders: Encoders
    fingerprint: str
    checkpoint_folder: Path


class LatentDenoiser(Checkpointed):
    """A network over the latents of an autoencoder.

    Args:
        parts: the model.
        source: how it is used.
        device: where the network runs.
    """

    has_latents = True
    takes_prompts = True
    sampler: Any
    sampling_steps: int

    def __init__(self, parts: Parts, source: ModelConfig, device: torch.device) -> None:
        if source.gradient_checkpointing:
            parts.network.enable_gradient_checkpointing()
        self.module = parts.network.to(device).eval()
        self.device = device
        self.source = source
        self.encoders = parts.encoders
        self.image_shape = parts.encoders.image_shape
        self.fingerprint = parts.fingerprint
        self.checkpoint_folder = parts.checkpoint_folder
        self.sampling_steps = source.sampling_steps

    def encode(
        self, images: NDArray[np.uint8], prompts: Sequence[str], image_range: Literal["model", "unit"]
    ) -> Encoded:
        """Latents and text embeddings; what was encoded before is remembered, as far as memory allows."""
        return Encoded(self.encoders.latents(images, image_range).to(self.device), self._conditioning(prompts))

    def _conditioning(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        return {name: value.to(self.device) for name, value in self.encoders.conditioning(prompts).items()}

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        """Places of the prompts that are cut."""
        return self.encoders.truncated(prompts)

    def attributed_parameters(self, which: str) -> dict[str, torch.nn.Parameter]:
        """As `ModelConfig.attributed` says, in the module's order (methods-spec 6.2).

        Raises:
            UsageError: where the model has none of them.
        """
        which = self.source.attributed if which == "attributed" else which
        if which == "auto":
            which = "transformer-blocks" if self.source.lora is None else "lora"
        named = {
            name: parameter
            for name, parameter in self.module.named_parameters()
            if all(word in name for word in WORDS[which])
        }
        if not named:
            raise UsageError(f"attributed={which}: model {self.source.model} has no such parameters")
        return named

    def predict(self, noisy: torch.Tensor, t: torch.Tensor, conditioning: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The network's output in the precision of `noisy`, whatever its own."""
        dtype = next(self.module.parameters()).dtype
        text = {name: value.to(dtype) for name, value in conditioning.items()}
        return self._network(noisy.to(dtype), t, text).to(noisy.dtype)

    @abstractmethod
    def _network(self, x: torch.Tensor, t: torch.Tensor, text: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One call of the network."""

    def _load(self, checkpoint: str) -> torch.nn.Module:
        if self.source.lora is None:
            return super()._load(checkpoint)
        shared = {id(p): p for name, p in self.module.named_parameters() if "lora" not in name}  # only the LoRA differs
        module: torch.nn.Module = copy.deepcopy(self.module, shared)
        load_lora_state(module, self._files()[checkpoint])
        return module

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Samples with guidance from the noise of each seed, a few pictures at once.

        With random weights the network is not asked: its pictures would mean no more than the noise itself.
        """
        found = []
        for few in _few(prompts, seeds):
            x = self._noise(few[1])
            if self.source.weights == "trained":
                x, _ = deque(self._sample(*few), maxlen=1).pop()
            found.append(self.encoders.pictures(x))
        return np.concatenate(found)

    def _noise(self, seeds: Sequence[int]) -> torch.Tensor:
        return torch.stack([gaussian(self.latent_shape, "generate", seed) for seed in seeds]).to(self.device)

    def trajectory(self, prompts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """The sampler's predictions of the clean latents, guidance included."""
        steps = (torch.stack([clean for _, clean in self._sample(*few)], dim=1) for few in _few(prompts, seeds))
        return torch.cat(list(steps))

    @torch.no_grad()
    def _sample(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields, after each step, the sample and the clean latents that the step took it to lead to."""
        scale = self.source.guidance_scale
        text = self._conditioning(prompts)
        if guided := scale > 1:
            blank = self._conditioning([""] * len(prompts))
            text = {name: torch.cat([blank[name], value]) for name, value in text.items()}
        x = self._noise(seeds)
        self.sampler.set_timesteps(self.sampling_steps)
        for t in self.sampler.timesteps:
            times = t.to(self.device).expand(len(x) * (2 if guided else 1))
            output = self.predict(torch.cat([x, x]) if guided else x, times, text)
            if guided:
                without, given = output.chunk(2)
                output = without + scale * (given - without)
            x, clean = self._step(output, t, x)
            yield x, clean

    @abstractmethod
    def _step(self, output: torch.Tensor, t: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of the sampler from `x` at `t`: the next sample, and the clean latents that it leads to."""


def resolution_of(source: ModelConfig, config: Any, factor: int) -> int:
    """Pixels on a side, for a network with this configuration and an autoencoder with this factor.

    Raises:
        UsageError: where the network can't take pictures of that size.
    """
    own = config["sample_size"]
    resolution = source.resolution or int(own if isinstance(own, int) else own[0]) * factor
    patch = int(config.get("patch_size") or 1)
    if resolution % (factor * patch):
        raise UsageError(f"resolution={resolution}: model {source.model} takes multiples of {factor * patch} pixels")
    most = config.get("pos_embed_max_size")
    if most is not None and resolution > most * factor * patch:
        raise UsageError(f"resolution={resolution}: model {source.model} takes up to {most * factor * patch} pixels")
    return resolution


def _few(prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[Sequence[str], Sequence[int]]]:
    for first in range(0, len(seeds), CHUNK):
        yield prompts[first : first + CHUNK], seeds[first : first + CHUNK]
