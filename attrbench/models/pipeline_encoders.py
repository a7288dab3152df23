"""Encoders that use the autoencoder and text encoders of a diffusers pipeline."""

from __future__ import annotations

import hashlib
import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.contracts.model_config import ModelConfig
from attrbench.models.encoders import CHUNK, Encoders, Range, vae_factor
from attrbench.models.noise import gaussian
from attrbench.models.quiet import quiet

log = logging.getLogger(__name__)

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


class PipelineEncoders(Encoders):
    """A base class of encoders by a diffusers pipeline's autoencoder and text encoders; subclasses embed prompts.

    Args:
        pipeline: of it only these parts are used.
        config: how they are used.
        resolution: pixels on a side.
        device: where they work; on `meta` they are outlines, which only tell their shapes.

    Attributes:
        pipeline, config, device: as given.
    """

    def __init__(self, pipeline: Any, config: ModelConfig, resolution: int, device: torch.device) -> None:
        super().__init__(resolution, vae_factor(pipeline.vae.config), int(pipeline.vae.config.in_channels))
        self.pipeline, self.config, self.device = pipeline, config, device
        self._vae = pipeline.vae.eval()
        self._scaling = float(pipeline.vae.config.scaling_factor)
        self._shift = float(getattr(pipeline.vae.config, "shift_factor", None) or 0.0)
        self._text_encoders = [
            encoder.eval() for name in TEXT_ENCODERS if (encoder := getattr(pipeline, name, None)) is not None
        ]
        home = torch.device("cpu") if config.offload and device.type != "meta" else device
        for module in (self._vae, *self._text_encoders):
            module.requires_grad_(False)
            module.to(home)
        self._warned = False

    @abstractmethod
    def prompt_embeddings(self, prompts: list[str]) -> Mapping[str, torch.Tensor]:
        """Return the conditioning tensors of a few prompts by the pipeline's text encoders, without guidance.

        Returns:
            Tensors with leading dimension len(prompts) by the names in `names`, in that order; of any type, since
            those that are not floating point (labels, masks) reach the network as they are.
        """

    def tokenizer_limits(self) -> Sequence[tuple[Any, int]]:
        """Return each tokenizer with the maximum number of tokens of its text encoder; by default none."""
        return []

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        """Return the indices of the prompts with more tokens than one of the text encoders takes."""
        indices: set[int] = set()
        with quiet():
            for tokenizer, limit in self.tokenizer_limits():
                tokens = tokenizer(list(prompts))["input_ids"] if prompts else []
                indices |= {index for index, ids in enumerate(tokens) if len(ids) > limit}
        return sorted(indices)

    def pictures(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """Decode latents [B, C, H, W] to uint8 images [B, H, W, C] by the autoencoder, in small batches."""
        parts = []
        with self._at_work(self._vae):
            for few in latents.split(CHUNK):
                scaled = few.to(self.device) / self._scaling + self._shift
                decoded = self._vae.decode(scaled.to(self._vae.dtype), return_dict=False)[0].float()
                pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
                parts.append(pixels.permute(0, 2, 3, 1).cpu().numpy())
        return np.ascontiguousarray(np.concatenate(parts))

    def _encode(self, images: NDArray[np.uint8], image_range: Range) -> torch.Tensor:
        """Encode images to scaled latents: the autoencoder's posterior mean, or a sample seeded by the image."""
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(self.device, torch.float32) / 255
        x = x if image_range == "unit" else x * 2 - 1
        posterior = self._vae.encode(x.to(self._vae.dtype)).latent_dist
        latents: torch.Tensor = posterior.mode().float()
        if self.config.vae == "sample":
            digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
            noise = torch.stack([gaussian(latents.shape[1:], "vae", digest) for digest in digests])
            latents = latents + posterior.std.float() * noise.to(latents)
        return (latents - self._shift) * self._scaling

    def _embed(self, prompts: Sequence[str]) -> Mapping[str, torch.Tensor]:
        self._warn_of_truncation(prompts)
        return self.prompt_embeddings(list(prompts))

    def _warn_of_truncation(self, prompts: Sequence[str]) -> None:
        """Log a warning, once, if prompts are too long for the text encoders and get truncated."""
        if not self._warned and (cut := self.truncated(prompts)):
            self._warned = True
            log.warning(
                "prompts are cut to what the text encoders take (%s tokens), as diffusers does; the first is '%s...'",
                ", ".join(str(limit) for limit in dict.fromkeys(limit for _, limit in self.tokenizer_limits())),
                prompts[cut[0]][:60],
            )

    def _pictures_at_work(self) -> AbstractContextManager[None]:
        return self._at_work(self._vae)

    def _texts_at_work(self) -> AbstractContextManager[None]:
        return self._at_work(*self._text_encoders)

    @contextmanager
    def _at_work(self, *modules: torch.nn.Module) -> Iterator[None]:
        """Keep modules on the device without gradients inside the `with` block; then offload them if configured."""
        try:
            for module in modules:
                module.to(self.device)
            with torch.no_grad(), quiet():
                yield
        finally:
            if self.config.offload:
                for module in modules:
                    module.to("cpu")
