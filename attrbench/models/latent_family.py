"""The base class of model families over latents of an autoencoder, such as Stable Diffusion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from attrbench.contracts.denoiser import CHECKPOINTS
from attrbench.contracts.model_config import ModelConfig
from attrbench.contracts.model_family import Architecture, ModelFamily
from attrbench.errors import AttrbenchError, UsageError
from attrbench.models.encoders import vae_factor
from attrbench.models.late import diffusers
from attrbench.models.latent_model import LatentDenoiser, Parts
from attrbench.models.lora import add_lora, add_random_lora, find_lora
from attrbench.models.lora_file import lora_digests
from attrbench.models.model_fingerprint import content_digest, file_digest, folder_files, model_digest
from attrbench.models.pipeline import load_pipeline
from attrbench.models.pipeline_encoders import PipelineEncoders
from attrbench.models.quiet import quiet
from attrbench.models.random_weights import RandomEncoders, draw_weights


class LatentFamily(ModelFamily):
    """A base class of loaders of latent diffusion models; a subclass names its network, denoiser and encoders."""

    takes_prompts = True
    network: ClassVar[str]
    """The pipeline's component that is the network, such as `transformer`."""
    optional_components: ClassVar[tuple[str, ...]] = ()
    """Components that a pipeline may be saved without."""
    network_class: ClassVar[str] = ""
    """Class of the network in diffusers, for random weights; empty where they can't be had."""
    scheduler_class: ClassVar[str] = ""
    """Class of the scheduler in diffusers, for random weights."""

    denoiser: ClassVar[type[LatentDenoiser]]
    """The model."""
    encoders: ClassVar[type[PipelineEncoders]]
    """What stands before it and behind it."""

    def conditioning_shapes(self, network: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return the shape of each conditioning tensor of one prompt, by name, for models with random weights.

        Args:
            network: configuration of the network.

        Raises:
            UsageError: where the family has no random weights.
        """
        raise UsageError(f"the family {self.name} has no weights=random")

    def own_size(self, network: Mapping[str, Any]) -> int:
        """Return the side in latents of the images that the network was trained on, from its configuration."""
        size = network["sample_size"]
        return int(size if isinstance(size, int) else size[0])

    def load(self, config: ModelConfig, folder: Path, index: Mapping[str, Any], device: torch.device) -> LatentDenoiser:
        """Load a latent diffusion model from its pipeline folder, with its encoders and any LoRA, as a denoiser."""
        components = self.components(index)
        lora = None if config.lora is None else find_lora(config)
        absent = (*self.unused_components, *self.optional_components)
        pipeline = load_pipeline(config, folder, index, components, device, may_be_missing=absent)
        network = getattr(pipeline, self.network)
        resolution = self.checked_resolution(config, network.config, vae_factor(pipeline.vae.config))
        adapter = "" if lora is None else add_lora(pipeline, self.network, config, lora)
        digest = file_digest if device.type == "meta" else content_digest
        files = {str(file.relative_to(folder)): digest(file) for file in folder_files(folder, components)}
        files |= {} if lora is None else lora_digests(lora, digest)
        parts = Parts(
            network=network,
            scheduler=pipeline.scheduler,
            encoders=self.encoders(pipeline, config, resolution, device),
            fingerprint=model_digest(config, resolution, files),
            checkpoint_folder=(folder if lora is None else lora.parent) / CHECKPOINTS,
            adapter_summary=adapter,
        )
        return self.denoiser(parts, config, device)

    def resolution(self, folder: Path, index: Mapping[str, Any]) -> int:
        """Return the side in pixels of the images that the model generates by default, from its configuration."""
        architecture = self.architecture(folder, index)
        return self.own_size(architecture.network) * architecture.factor

    def checked_resolution(self, config: ModelConfig, network: Any, factor: int) -> int:
        """Return the image side in pixels, the configured one or the model's own, after checking that it fits.

        Args:
            config: may name a resolution.
            network: configuration of the network.
            factor: pixels on a side of what one latent stands for.

        Raises:
            UsageError: where the network can't take pictures of that size.
        """
        resolution = config.resolution or self.own_size(network) * factor
        patch = int(network.get("patch_size") or 1)
        if resolution % (factor * patch):
            raise UsageError(
                f"resolution={resolution}: model {config.model} takes multiples of {factor * patch} pixels"
            )
        most = network.get("pos_embed_max_size")
        if most is not None and resolution > most * factor * patch:
            raise UsageError(
                f"resolution={resolution}: model {config.model} takes up to {most * factor * patch} pixels"
            )
        return resolution

    def architecture(self, folder: Path, index: Mapping[str, Any]) -> Architecture:
        """Return the architecture (network, scheduler, autoencoder factor) in a local folder's configuration files.

        Raises:
            AttrbenchError: where one is missing or damaged.
        """
        names = (self.network, "config.json"), ("scheduler", "scheduler_config.json"), ("vae", "config.json")
        network, scheduler, vae = (_read(folder / component / name) for component, name in names)
        return Architecture(network, scheduler, vae_factor(vae))

    def load_random(self, config: ModelConfig, architecture: Architecture, device: torch.device) -> LatentDenoiser:
        """Build the model with random weights, and a random LoRA if one is configured, for measuring costs.

        It is built in place, never twice in memory. Latents and conditioning are functions of picture and prompt.
        """
        shapes = self.conditioning_shapes(architecture.network)
        resolution = self.checked_resolution(config, architecture.network, architecture.factor)
        with torch.device("meta"):
            network = getattr(diffusers, self.network_class).from_config(dict(architecture.network))
        with quiet():
            network = network.to(getattr(torch, config.dtype))
            if device.type != "meta":
                network = network.to_empty(device=device)
            if config.lora is not None:
                add_random_lora(network)
        if device.type != "meta":
            draw_weights(network)
        description = json.dumps([architecture.network, architecture.scheduler], sort_keys=True, default=str)
        lora = "with" if config.lora is not None else "without"
        parts = Parts(
            network=network,
            scheduler=getattr(diffusers, self.scheduler_class).from_config(dict(architecture.scheduler)),
            encoders=RandomEncoders(resolution, architecture.factor, int(architecture.network["in_channels"]), shapes),
            fingerprint=model_digest(config, resolution, {"architecture": f"{description} {lora} LoRA"}),
            checkpoint_folder=Path(config.model) / CHECKPOINTS,
        )
        return self.denoiser(parts, config, device)


def _read(file: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        raise AttrbenchError(f"model {file.parent.parent} lacks a readable {file.parent.name}/{file.name}") from None
    return config
