"""What stands before the network and behind it: pictures to latents and back, prompts to conditioning."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from attrbench.errors import AttrbenchError
from attrbench.models.config import ModelConfig
from attrbench.models.encoding_cache import Encoding, EncodingCache
from attrbench.models.noise import gaussian

log = logging.getLogger(__name__)

CHUNK = 8
"""Pictures or prompts at once; fixed, so that what they become does not depend on anyone's batch."""
LEAST_KEPT = 2**30
"""Bytes of latents, and as many of conditioning, that are kept for the next pass however little memory is free."""

Range = Literal["model", "unit"]


class Encoders(ABC):
    """Encodes pictures and prompts, each for itself.

    Args:
        resolution: pixels on a side.
        factor: how many of them a latent stands for.
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
        self._latents, self._texts = EncodingCache(kept_bytes()), EncodingCache(kept_bytes())

    def latents(self, images: NDArray[np.uint8], image_range: Range) -> torch.Tensor:
        """[B, C, H, W] float32 latents, on the CPU, of images ([B, H, W, C]).

        Raises:
            AttrbenchError: where the images are not as large as the model takes them.
        """
        if images.shape[1:] != self.image_shape:
            raise AttrbenchError(
                f"the model takes pictures of {_by(self.image_shape)}, these are {_by(images.shape[1:])}: resize them,"
                " or set resolution=PIXELS"
            )
        keys = [f"{image_range}/{hashlib.sha256(image.tobytes()).hexdigest()}" for image in images]

        def compute(places: list[int]) -> list[Encoding]:
            with self._pictures_at_work():
                chosen = [self._encode(images[chunk], image_range) for chunk in _chunks(places)]
            return [(latent,) for latent in torch.cat(chosen).float().cpu()]

        return torch.stack([latent for (latent,) in self._latents.through(keys, compute)])

    def conditioning(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Tensors with leading dimension B, on the CPU."""

        def compute(places: list[int]) -> list[Encoding]:
            with self._texts_at_work():
                found = [self._embed([prompts[place] for place in chunk]) for chunk in _chunks(places)]
            return [row for part in found for row in zip(*(value.cpu() for value in part.values()), strict=True)]

        rows = self._texts.through(list(prompts), compute)
        return {name: torch.stack([row[place] for row in rows]) for place, name in enumerate(self.names)}

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        """Places of the prompts that do not fit into a text encoder."""
        return []

    def _pictures_at_work(self) -> AbstractContextManager[None]:
        """Around all `_encode` of one call."""
        return nullcontext()

    def _texts_at_work(self) -> AbstractContextManager[None]:
        """Around all `_embed` of one call."""
        return nullcontext()

    @abstractmethod
    def _encode(self, images: NDArray[np.uint8], image_range: Range) -> torch.Tensor:
        """Latents of a chunk."""

    @abstractmethod
    def _embed(self, prompts: Sequence[str]) -> Mapping[str, torch.Tensor]:
        """Conditioning of a chunk, by `names` and in their order."""

    @abstractmethod
    def pictures(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """[B, H, W, C] pictures of latents ([B, C, H, W])."""


class PipelineEncoders(Encoders):
    """The autoencoder and the text encoders of a diffusers pipeline.

    Args:
        pipeline: of it only these parts are used.
        source: how.
        resolution: pixels on a side.
        device: where they work.
    """

    def __init__(self, pipeline: Any, source: ModelConfig, resolution: int, device: torch.device) -> None:
        super().__init__(resolution, vae_factor(pipeline.vae.config), int(pipeline.vae.config.in_channels))
        self._pipeline, self._source, self._device = pipeline, source, device
        self._vae = pipeline.vae.eval()
        config = pipeline.vae.config
        self._scaling = float(config.scaling_factor)
        self._shift = float(getattr(config, "shift_factor", None) or 0.0)
        self._text_encoders = [
            encoder.eval()
            for name in ("text_encoder", "text_encoder_2", "text_encoder_3")
            if (encoder := getattr(pipeline, name, None)) is not None
        ]
        for module in (self._vae, *self._text_encoders):
            module.requires_grad_(False)
            module.to("cpu" if source.offload else device)
        self._told = False

    @contextmanager
    def _at_work(self, *modules: torch.nn.Module) -> Iterator[None]:
        """The modules are on the device meanwhile, and nothing is differentiated."""
        try:
            for module in modules:
                module.to(self._device)
            with torch.no_grad(), quiet():
                yield
        finally:
            if self._source.offload:
                for module in modules:
                    module.to("cpu")

    def _encode(self, images: NDArray[np.uint8], image_range: Range) -> torch.Tensor:
        """(E(x) - shift) * scaling, with the mean of the posterior for E(x), or a draw that the image decides."""
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(self._device, torch.float32) / 255
        x = x if image_range == "unit" else x * 2 - 1
        posterior = self._vae.encode(x.to(self._vae.dtype)).latent_dist
        latents: torch.Tensor = posterior.mode().float()
        if self._source.vae == "sample":
            digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
            noise = torch.stack([gaussian(latents.shape[1:], "vae", digest) for digest in digests])
            latents = latents + posterior.std.float() * noise.to(latents)
        return (latents - self._shift) * self._scaling

    def pictures(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """Decodes, a few at once."""
        found = []
        with self._at_work(self._vae):
            for few in latents.split(CHUNK):
                scaled = few.to(self._device) / self._scaling + self._shift
                decoded = self._vae.decode(scaled.to(self._vae.dtype), return_dict=False)[0].float()
                pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
                found.append(pixels.permute(0, 2, 3, 1).cpu().numpy())
        return np.ascontiguousarray(np.concatenate(found))

    def _embed(self, prompts: Sequence[str]) -> Mapping[str, torch.Tensor]:
        self._tell(prompts)
        return self._texts_of(list(prompts))

    def _pictures_at_work(self) -> AbstractContextManager[None]:
        return self._at_work(self._vae)

    def _texts_at_work(self) -> AbstractContextManager[None]:
        return self._at_work(*self._text_encoders)

    @abstractmethod
    def _texts_of(self, prompts: list[str]) -> Mapping[str, torch.Tensor]:
        """The pipeline's own embeddings, without guidance."""

    @abstractmethod
    def _limits(self) -> Sequence[tuple[Any, int]]:
        """Each tokenizer, with how many tokens its encoder takes."""

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        """Places of the prompts that do not fit into one of the text encoders."""
        found: set[int] = set()
        with quiet():
            for tokenizer, limit in self._limits():
                tokens = tokenizer(list(prompts))["input_ids"] if prompts else []
                found |= {place for place, ids in enumerate(tokens) if len(ids) > limit}
        return sorted(found)

    def _tell(self, prompts: Sequence[str]) -> None:
        """Says once that prompts are cut."""
        if not self._told and (cut := self.truncated(prompts)):
            self._told = True
            log.warning(
                "prompts are cut to what the text encoders take (%s tokens), as diffusers does; the first is '%s...'",
                ", ".join(str(limit) for limit in dict.fromkeys(limit for _, limit in self._limits())),
                prompts[cut[0]][:60],
            )


def kept_bytes() -> int:
    """A quarter of the main memory that is free, shared with the other processes of a training."""
    processes = max(1, int(os.environ.get("WORLD_SIZE", "1")))
    return max(LEAST_KEPT, int(psutil.virtual_memory().available) // (4 * processes))


def vae_factor(config: Any) -> int:
    """Pixels on a side of what one latent stands for."""
    return int(2 ** (len(config["block_out_channels"]) - 1))


def _chunks(places: Sequence[int]) -> list[list[int]]:
    return [list(places[first : first + CHUNK]) for first in range(0, len(places), CHUNK)]


def _by(shape: Sequence[int]) -> str:
    height, width, channels = shape
    return f"{width} x {height} pixels in {channels} channel{'s' * (channels != 1)}"


@contextmanager
def quiet() -> Iterator[None]:
    """Diffusers and transformers report nothing but errors meanwhile, and draw no progress bars."""
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled
    from transformers.utils import logging as transformers_logging

    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    before, bars = [library.get_verbosity() for library in libraries], not are_progress_bars_disabled()
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for library, verbosity in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
