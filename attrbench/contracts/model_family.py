"""The contract of a model family: how a diffusers pipeline folder of some kind is loaded as a denoiser.

`attrbench.models.loading` finds the folder, here or on the hub, reads `model_index.json` in it, and hands both to the
family that takes the pipeline's class. Families are registered by the hook `register_model_families`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.model_config import ModelConfig
from attrbench.contracts.model_description import ModelDescription
from attrbench.errors import UsageError

META = torch.device("meta")
"""The device of networks that have names and shapes but no weights."""


@dataclass(frozen=True)
class Architecture:
    """The configuration of a diffusion model's network and scheduler, from which it is built without weights.

    Attributes:
        network: configuration of the UNet or the transformer.
        scheduler: configuration of the scheduler.
        factor: pixels on a side of what one latent stands for.
    """

    network: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    factor: int = 8


class ModelFamily(ABC):
    """Base class of kinds of diffusers pipelines: which folders it takes, and how it loads them; keeps no state."""

    name: ClassVar[str]
    """What messages call it, and the name under which it is registered."""
    pipelines: ClassVar[tuple[str, ...]]
    """Pipeline classes that it takes: `_class_name` in `model_index.json`."""
    takes_prompts: ClassVar[bool]
    """Whether its models draw from prompts or labels."""
    refused_options: ClassVar[tuple[str, ...]] = ()
    """Options of `ModelConfig` that mean nothing here; giving one is an error."""
    unused_components: ClassVar[tuple[str, ...]] = ("safety_checker", "feature_extractor", "image_encoder")
    """Components that neither gradients nor pictures need; they are neither downloaded nor loaded."""
    architectures: ClassVar[Mapping[str, Architecture]] = {}
    """Published models that can be built with random weights without their folder: id on the hub -> architecture."""

    def components(self, index: Mapping[str, Any]) -> list[str]:
        """Return the names of the pipeline's components to load (such as the UNet), in the order of its index.

        Args:
            index: content of `model_index.json`.
        """
        return [
            name
            for name, value in index.items()
            if isinstance(value, list) and value[0] is not None and name not in self.unused_components
        ]

    @abstractmethod
    def load(self, config: ModelConfig, folder: Path, index: Mapping[str, Any], device: torch.device) -> Denoiser:
        """Return the diffusion model of a diffusers pipeline folder, loaded onto `device`.

        On the device `meta` no weight is read: the network is built from its configuration
        (`attrbench.models.pipeline.load_pipeline` does so), and the denoiser is asked for nothing but what
        `ModelDescription` says. Fingerprint, shapes, parameters and timesteps must be the same on any device.

        Args:
            config: which model, and how it is used; options in `refused_options` are at their defaults.
            folder: the pipeline folder, complete.
            index: content of its `model_index.json`.
            device: where the network shall lie.

        Raises:
            AttrbenchError: one line, where a component is missing or does not fit.
            UsageError: where an option does not go with the model.
        """

    def describe(self, config: ModelConfig, folder: Path, index: Mapping[str, Any]) -> ModelDescription:
        """Return the model's hash, shapes and parameters for a plan, without weights; by default `load` on `meta`.

        Raises:
            AttrbenchError: as `load`.
        """
        return ModelDescription(self.load(config, folder, index, META))

    @abstractmethod
    def resolution(self, folder: Path, index: Mapping[str, Any]) -> int:
        """Return the side length in pixels of the images that the model generates, from configuration files alone.

        Raises:
            AttrbenchError: where they are missing.
        """

    def architecture(self, folder: Path, index: Mapping[str, Any]) -> Architecture:
        """Return the network and scheduler configuration of a local pipeline folder, to build it with random weights.

        Raises:
            UsageError: where the family can't be built with random weights.
        """
        raise UsageError(f"model={folder}: the family {self.name} has no weights=random")

    def load_random(self, config: ModelConfig, architecture: Architecture, device: torch.device) -> Denoiser:
        """Return a model of the architecture with random weights from a fixed seed; on device `meta`, without any.

        Raises:
            UsageError: where the family can't be built with random weights.
        """
        raise UsageError(f"model={config.model}: the family {self.name} has no weights=random")

    def check_options(self, config: ModelConfig) -> None:
        """Raise an error if a model option is given that has no meaning for this family.

        Raises:
            AttrbenchError: where one of `refused_options` is given.
        """
        for option in self.refused_options:
            if getattr(config, option) != ModelConfig.model_fields[option].default:
                raise UsageError(
                    f"{option}={getattr(config, option)}: model {config.model} is of the family {self.name}, which"
                    f" has no option {option}"
                )
