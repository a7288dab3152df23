"""The contract that hides the model families (DDPM, SD 1.x, SD 3) from everything else."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.errors import Unavailable, UsageError, unknown_name

CHECKPOINTS = "checkpoints"
"""Folder beside the weights that holds those from earlier in training, as NAME-STEP.safetensors."""
LEARNING_RATES = "learning-rates.json"
"""File in it: checkpoint -> learning rate, `final` among them."""


@dataclass(frozen=True)
class Encoded:
    """Items as the network sees them: encoded once an item, never once a timestep.

    Attributes:
        latents: [B, C, H, W] clean latents, or images for pixel models.
        conditioning: tensors with leading dimension B, such as text embeddings; empty for unconditional models.
    """

    latents: torch.Tensor
    conditioning: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.latents)

    def select(self, index: torch.Tensor) -> Encoded:
        """The items at `index` ([k] integers), in that order and with repeats."""
        return Encoded(self.latents[index], {name: value[index] for name, value in self.conditioning.items()})


class Denoiser(ABC):
    """A trained diffusion model.

    Attributes:
        module: the network whose parameters are differentiated, in eval mode.
        device: where it lies.
        latent_shape: (C, H, W) of one encoded item.
        image_shape: (H, W, C) of one picture.
        takes_prompts: whether it draws from prompts.
        training_steps: number of training timesteps.
        fingerprint: hash of all that decides an item's gradient: weights, and how they are used.
        sampling: what besides the weights decides `generate` and `trajectory`.
        has_latents: whether items pass through an autoencoder on their way to the network.
    """

    module: torch.nn.Module
    device: torch.device
    latent_shape: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    takes_prompts: bool = False
    training_steps: int
    fingerprint: str
    sampling: Mapping[str, object] = MappingProxyType({})
    has_latents: bool = False

    @abstractmethod
    def encode(
        self, images: NDArray[np.uint8], prompts: Sequence[str], image_range: Literal["model", "unit"]
    ) -> Encoded:
        """Encodes images ([B, H, W, C] uint8) and their prompts. `unit` feeds [0, 1] instead of the trained range."""

    @abstractmethod
    def attributed_parameters(self, which: str) -> dict[str, torch.nn.Parameter]:
        """The differentiated parameters by name, in a fixed order; `which` as in `GradientSource.parameters`."""

    @abstractmethod
    def timesteps(self, grid: TimestepGrid) -> tuple[float, ...]:
        """The timesteps of a grid, in the network's units: integers, or real numbers for flow-matching models."""

    @abstractmethod
    def noisy(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The forward process q(x_t | x_0): [B, C, H, W] at timesteps t ([B])."""

    @abstractmethod
    def predict(self, noisy: torch.Tensor, t: torch.Tensor, conditioning: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The network's output, [B, C, H, W]."""

    @abstractmethod
    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the network was trained to predict, [B, C, H, W]."""

    def loss_weights(self, t: torch.Tensor) -> torch.Tensor:
        """[B] weights of the variational bound at timesteps t, for the model output `weighted-loss`.

        Raises:
            UsageError: where the model has none.
        """
        raise UsageError(f"{type(self).__name__} has no weights for the model output weighted-loss; use loss")

    def checkpoints(self) -> tuple[str, ...]:
        """Names of weights from earlier in training, earliest first; `final` is not among them."""
        return ()

    def learning_rate(self, checkpoint: str) -> float:
        """The learning rate at a checkpoint.

        Raises:
            UsageError: where it is not known.
        """
        raise UsageError(f"the learning rate at checkpoint {checkpoint} is not known")

    def at(self, checkpoint: str) -> Denoiser:
        """The model with other weights.

        Args:
            checkpoint: `final`, its own; `untrained`, drawn anew; one of `checkpoints()`; or `k/n` for the one that
                stands k n-ths on the way from the first of them to the final weights.

        Raises:
            UsageError: where there is no such checkpoint.
            Unavailable: where `k/n` is asked of a model that has none.
        """
        checkpoint = self._known(checkpoint)
        if checkpoint == "final":
            return self
        if checkpoint == "untrained":
            return self._with(untrained(self.module), "untrained")
        return self._with(self._load(checkpoint), checkpoint)

    def fingerprint_at(self, checkpoint: str) -> str:
        """Return the fingerprint of `at(checkpoint)` without loading it; raises as `at` does."""
        checkpoint = self._known(checkpoint)
        return self.fingerprint if checkpoint == "final" else self._fingerprint_of(checkpoint)

    def _known(self, checkpoint: str) -> str:
        checkpoint = self.resolve(checkpoint)
        known = ("final", "untrained", *self.checkpoints())
        if checkpoint not in known:
            raise unknown_name("checkpoint", checkpoint, known)
        return checkpoint

    def _fingerprint_of(self, checkpoint: str) -> str:
        """The fingerprint with weights other than the final ones."""
        return f"{self.fingerprint}/{checkpoint}"

    def resolve(self, checkpoint: str) -> str:
        """The name behind `k/n`: of C checkpoints in all, the final one among them, the ceil(C k / n)-th."""
        share, slash, parts = checkpoint.partition("/")
        if not slash:
            return checkpoint
        every = (*self.checkpoints(), "final")
        if len(every) < int(parts):
            raise Unavailable(
                f"{parts} checkpoints are asked for, and of this model's training there are {len(every)}, the final"
                " weights included"
            )
        return every[-(-len(every) * int(share) // int(parts)) - 1]

    def _load(self, checkpoint: str) -> torch.nn.Module:
        """A copy of the module with the weights of one of `checkpoints()`."""
        raise NotImplementedError

    def _with(self, module: torch.nn.Module, name: str) -> Denoiser:
        other = copy.copy(self)
        other.module = module.to(self.device).eval()
        other.fingerprint = self._fingerprint_of(name)
        return other

    def sampler_timesteps(self) -> tuple[float, ...]:
        """The timesteps that `generate` visits, in its order.

        Raises:
            Unavailable: where the model cannot say.
        """
        raise Unavailable(f"{type(self).__name__} has no sampling trajectories")

    def trajectory(self, prompts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """What `generate` took for the clean latents at each of its steps: [B, steps, C, H, W], first step first.

        Args:
            prompts: of the pictures.
            seeds: of the pictures.

        Raises:
            Unavailable: where the model cannot run its sampler again.
        """
        raise Unavailable(f"{type(self).__name__} has no sampling trajectories")

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        """Places of the prompts that are longer than the text encoders take, and are cut."""
        return []

    @abstractmethod
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """One image a seed, [B, H, W, C] uint8; an image depends on its own prompt and seed alone."""


def untrained(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """A copy of the module whose weights are drawn anew, each layer as it initializes itself."""
    fresh = copy.deepcopy(module).cpu()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for layer in fresh.modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()
                continue
            for name, parameter in layer.named_parameters(recurse=False):  # norms' scales, tables of positions
                if parameter.dim() == 1:
                    parameter.fill_(1.0 if name == "weight" else 0.0)
                else:
                    parameter.normal_(std=0.02)
    return fresh
