"""The interface of encoders, which turn images into latents and back, and prompts into conditioning tensors."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from attrbench.contracts.task import pixel_digest
from attrbench.errors import AttrbenchError
from attrbench.models.encoding_cache import Encoding, EncodingCache

CHUNK = 8
"""Pictures or prompts at once. A last chunk of pictures is filled up, as another number of them rounds otherwise."""
LEAST_KEPT = 2**30
"""Bytes of latents, and as many of conditioning, that are kept for the next pass however little memory is free."""

Range = Literal["model", "unit"]


class Encoders(ABC):
    """A base class of encoders of images to latents and prompts to conditioning, with a memory cache of both.

    Args:
        resolution: pixels on a side.
        factor: pixels on a side of what one latent stands for.
        channels: of the pictures.

    Attributes:
        names: of the tensors of the conditioning.
        latent_size: latents on a side.
        image_shape: (H, W, C) of the pictures.
    """

    names: tuple[str, ...]

    def __init__(self, resolution: int, factor: int, channels: int = 3) -> None:
        self.latent_size = resolution // factor
        self.image_shape = (resolution, resolution, channels)
        self._latents, self._texts = EncodingCache(cache_bytes()), EncodingCache(cache_bytes())

    def forgetful(self) -> Encoders:
        """Return the same encoders with an empty memory cache of their own."""
        other = copy.copy(self)
        other._latents, other._texts = EncodingCache(cache_bytes()), EncodingCache(cache_bytes())
        return other

    def latents(self, images: NDArray[np.uint8], image_range: Range) -> torch.Tensor:
        """Return the latents of images ([B, H, W, C]) as [B, C, H, W] float32, on the CPU.

        Raises:
            AttrbenchError: where the images are not as large as the model takes them.
        """
        if images.shape[1:] != self.image_shape:
            raise AttrbenchError(
                f"the model takes pictures of {_by(self.image_shape)}, these are {_by(images.shape[1:])}: resize them,"
                " or set resolution=PIXELS"
            )
        keys = [f"{image_range}/{pixel_digest(image)}" for image in images]

        def compute(indices: list[int]) -> list[Encoding]:
            with self._pictures_at_work():
                filled = [*indices, *[indices[-1]] * (-len(indices) % CHUNK)]
                parts = [self._encode(images[chunk], image_range) for chunk in _chunks(filled)]
            return [(latent,) for latent in torch.cat(parts)[: len(indices)].float().cpu()]

        return torch.stack([latent for (latent,) in self._latents.through(keys, compute)])

    def conditioning(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return B prompts' conditioning for the network: name -> tensor with leading dimension B, on the CPU."""

        def compute(indices: list[int]) -> list[Encoding]:
            with self._texts_at_work():
                parts = [self._embed([prompts[index] for index in chunk]) for chunk in _chunks(indices)]
            return [row for part in parts for row in zip(*(value.cpu() for value in part.values()), strict=True)]

        rows = self._texts.through(list(prompts), compute)
        return {name: torch.stack([row[position] for row in rows]) for position, name in enumerate(self.names)}

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        """Return the indices of prompts that are too long for a text encoder and get truncated; by default none."""
        return []

    def _pictures_at_work(self) -> AbstractContextManager[None]:
        """Return a context that is entered while a call encodes images, for moving modules to the device."""
        return nullcontext()

    def _texts_at_work(self) -> AbstractContextManager[None]:
        """Return a context that is entered while a call embeds prompts, for moving modules to the device."""
        return nullcontext()

    @abstractmethod
    def _encode(self, images: NDArray[np.uint8], image_range: Range) -> torch.Tensor:
        """Encode a few images that are not in the memory cache; return their latents, [B, C, H, W]."""

    @abstractmethod
    def _embed(self, prompts: Sequence[str]) -> Mapping[str, torch.Tensor]:
        """Embed a few prompts that are not in the memory cache; return name -> conditioning tensor."""

    @abstractmethod
    def pictures(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """Decode latents [B, C, H, W] to uint8 images [B, H, W, C]."""


def cache_bytes() -> int:
    """Return the limit in bytes of the encodings' memory cache: a quarter of free memory, split among processes."""
    processes = max(1, int(os.environ.get("WORLD_SIZE", "1")))
    return max(LEAST_KEPT, int(psutil.virtual_memory().available) // (4 * processes))


def vae_factor(config: Any) -> int:
    """Return the side in pixels of the square that one latent stands for, from an autoencoder's configuration."""
    return int(2 ** (len(config["block_out_channels"]) - 1))


def _chunks(indices: Sequence[int]) -> list[list[int]]:
    return [list(indices[first : first + CHUNK]) for first in range(0, len(indices), CHUNK)]


def _by(shape: Sequence[int]) -> str:
    height, width, channels = shape
    return f"{width} x {height} pixels in {channels} channel{'s' * (channels != 1)}"
