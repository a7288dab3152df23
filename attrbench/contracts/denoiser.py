"""The contract of a trained diffusion model of any family: encode images, add noise, predict, and generate."""

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
OTHER_SEED = "other-seed"
"""Name of the weights that the same training gave with another seed: a file of `CHECKPOINTS`, and no checkpoint."""


@dataclass(frozen=True)
class Encoded:
    """A batch of items encoded for the network, once for all timesteps: clean latents and conditioning.

    Attributes:
        latents: [B, C, H, W] clean latents, or images for pixel models.
        conditioning: tensors with leading dimension B, such as text embeddings; empty for unconditional models.
    """

    latents: torch.Tensor
    conditioning: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.latents)

    def select(self, index: torch.Tensor) -> Encoded:
        """Return the encoded items at `index` ([k] integers) as a batch, in that order and with repeats."""
        return Encoded(self.latents[index], {name: value[index] for name, value in self.conditioning.items()})


class Denoiser(ABC):
    """Base class of trained diffusion models: network, noising, prediction, sampler and checkpoints.

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
        adapter_summary: one line for plans on what was added to the network, such as a LoRA; empty where nothing was.
        adapter_part: one line for plans on how much of that is differentiated; empty where all of it is.
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
    adapter_summary: str = ""
    adapter_part: str = ""

    @abstractmethod
    def encode(
        self, images: NDArray[np.uint8], prompts: Sequence[str], image_range: Literal["model", "unit"]
    ) -> Encoded:
        """Return the clean latents and conditioning (such as text embeddings) of images and their prompts.

        Args:
            images: [B, H, W, C], as large as `image_shape` says.
            prompts: B of them; empty strings for unconditional models.
            image_range: `model`, pixels in the range of the training; `unit`, in [0, 1].
        """

    @abstractmethod
    def attributed_parameters(self, which: str) -> dict[str, torch.nn.Parameter]:
        """Return the parameters with respect to which gradients are taken, by name, in a fixed order.

        Args:
            which: as in `GradientSource.parameters`.

        Raises:
            UsageError: where the model has no such parameters.
        """

    @abstractmethod
    def timesteps(self, grid: TimestepGrid) -> tuple[float, ...]:
        """Return the T timesteps of a grid, in the network's units: integers, or real numbers for flow matching.

        A grid `sampler` without `steps` has all that the sampler visits (`sampler_timesteps`).
        """

    @abstractmethod
    def noisy(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return latents noised by the forward diffusion process to timesteps t ([B]): x_t, [B, C, H, W]."""

    @abstractmethod
    def predict(self, noisy: torch.Tensor, t: torch.Tensor, conditioning: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the network's prediction for noisy latents at timesteps t, [B, C, H, W], comparable with `target`.

        Networks that predict more (a learned variance, say) give the part that `target` is the target of.
        """

    @abstractmethod
    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the regression target that the network was trained to predict, [B, C, H, W]: noise, v or velocity."""

    def loss_weights(self, t: torch.Tensor) -> torch.Tensor:
        """Return the [B] weights of the loss in the variational bound at timesteps t, for the output `weighted-loss`.

        Raises:
            UsageError: where the model has none.
        """
        raise UsageError(f"{type(self).__name__} has no weights for the model output weighted-loss; use loss")

    def checkpoints(self) -> tuple[str, ...]:
        """Return the names of saved weights from earlier in training, earliest first; `final` is not among them."""
        return ()

    def has_other_seed(self) -> bool:
        """Return whether the weights `other-seed`, of the same training with another seed, can be had."""
        return False

    def learning_rate(self, checkpoint: str) -> float:
        """Return the learning rate that training used at a checkpoint.

        Raises:
            UsageError: where it is not known.
        """
        raise UsageError(f"the learning rate at checkpoint {checkpoint} is not known")

    def at(self, checkpoint: str) -> Denoiser:
        """Return this diffusion model with the weights of a training checkpoint, such as `final` or `untrained`.

        Args:
            checkpoint: `final`, its own; `untrained`, drawn anew; `other-seed`, of the same training with another
                seed; one of `checkpoints()`; or `k/n` for the one that stands k n-ths on the way from the first of
                them to the final weights.

        Raises:
            UsageError: where there is no such checkpoint.
            Unavailable: where `k/n` is asked of a model that has too few, or `other-seed` of one that has none.
        """
        checkpoint = self._known(checkpoint)
        if checkpoint == "final":
            return self
        if checkpoint == "untrained":
            return self._with(untrained(self.module), "untrained")
        return self._with(self._load(checkpoint), checkpoint)

    def fingerprint_at(self, checkpoint: str) -> str:
        """Return the hash that identifies the model with a checkpoint's weights, not loading it; raises as `at`."""
        checkpoint = self._known(checkpoint)
        return self.fingerprint if checkpoint == "final" else self._fingerprint_with(checkpoint)

    def _known(self, checkpoint: str) -> str:
        checkpoint = self.resolve(checkpoint)
        if checkpoint == OTHER_SEED and not self.has_other_seed():
            raise Unavailable(
                f"no weights of this model's training with another seed: keep them as {CHECKPOINTS}/{OTHER_SEED}"
                ".safetensors beside its own"
            )
        other = (OTHER_SEED,) if self.has_other_seed() else ()
        known = ("final", "untrained", *other, *self.checkpoints())
        if checkpoint not in known:
            raise unknown_name("checkpoint", checkpoint, known)
        return checkpoint

    def resolve(self, checkpoint: str) -> str:
        """Return the checkpoint name that a fraction `k/n` of training means: the ceil(C k / n)-th of C with `final`.

        Raises:
            Unavailable: where the model has fewer than n.
        """
        share, slash, parts = checkpoint.partition("/")
        if not slash:
            return checkpoint
        every = (*self.checkpoints(), "final")
        if len(every) < int(parts):
            raise Unavailable(
                f"{parts} checkpoints are asked for, and of this model's training there are {len(every)}, the final"
                f" weights included: give the method checkpoints={len(every)}"
            )
        return every[-(-len(every) * int(share) // int(parts)) - 1]

    def _fingerprint_with(self, name: str) -> str:
        """Return the hash that identifies this model with other weights, given the name of those weights."""
        return f"{self.fingerprint}/{name}"

    def _load(self, checkpoint: str) -> torch.nn.Module:
        """Return a copy of the network with the weights of one of the checkpoints that `checkpoints()` names."""
        raise NotImplementedError

    def _with(self, module: torch.nn.Module, name: str) -> Denoiser:
        """Return a copy of this denoiser that uses another network, whose weights are called `name`."""
        other = copy.copy(self)
        other.module = module.to(self.device).eval()
        other.fingerprint = self._fingerprint_with(name)
        return other

    def forgetful(self) -> Denoiser:
        """Return this model without what it remembers of items that it encoded, for a try that leaves no trace in it.

        A model that keeps encodings in memory returns a copy over the same network that keeps its own.
        """
        return self

    def sampler_timesteps(self) -> tuple[float, ...]:
        """Return the timesteps that the sampler visits when it generates an image, in its order.

        Raises:
            Unavailable: where the model cannot say.
        """
        raise Unavailable(f"{type(self).__name__} has no sampling trajectories")

    def trajectory(self, prompts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """Return the sampler's estimates of the clean latents at each step, [B, steps, C, H, W], first step first.

        Args:
            prompts: of the pictures.
            seeds: of the pictures.

        Raises:
            Unavailable: where the model cannot run its sampler again.
        """
        raise Unavailable(f"{type(self).__name__} has no sampling trajectories")

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        """Return the indices of the prompts that are too long for the text encoders and so are truncated."""
        return []

    @abstractmethod
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Return one generated image per seed, [B, H, W, C] uint8; each depends on its own prompt and seed alone."""


def untrained(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Return a copy of a network with newly drawn random initial weights, as before training."""
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
