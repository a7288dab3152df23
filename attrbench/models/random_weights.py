"""Models with random weights and trivial encoders, for measuring memory, time and storage without a download.

Nothing of what they compute means anything. Latents and conditioning are functions of the picture and of the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.models.encoders import Encoders, Range
from attrbench.models.noise import gaussian, seed_of


@torch.no_grad()
def draw_weights(module: torch.nn.Module) -> None:
    """Fill a network with random weights of scale 1/sqrt(inputs), seeded by name and equal on all devices."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.dim() == 1:
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        bound = (tensor.numel() / tensor.shape[0]) ** -0.5
        generator = torch.Generator().manual_seed(seed_of("weights", name))
        tensor.copy_(torch.empty(tensor.shape).uniform_(-bound, bound, generator=generator))


class RandomEncoders(Encoders):
    """Encoders without weights, for cost measurements: latents are mixed pixel block means, conditioning is noise.

    Args:
        resolution: pixels on a side.
        factor: pixels on a side of what one latent stands for.
        channels: of the latents.
        shapes: of each tensor of one prompt's conditioning, by name.
    """

    def __init__(self, resolution: int, factor: int, channels: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(resolution, factor)
        self._resolution, self._factor = resolution, factor
        self._mixing = gaussian((channels, 3), "latents")
        self._shapes = dict(shapes)
        self.names = tuple(shapes)

    def _encode(self, images: NDArray[np.uint8], image_range: Range) -> torch.Tensor:
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
        x = torch.nn.functional.avg_pool2d(x if image_range == "unit" else x * 2 - 1, self._factor)
        return torch.einsum("oc,bchw->bohw", self._mixing, x)

    def _embed(self, prompts: Sequence[str]) -> Mapping[str, torch.Tensor]:
        return {
            name: torch.stack([gaussian(shape, name, prompt) for prompt in prompts])
            for name, shape in self._shapes.items()
        }

    def pictures(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """Return images from latents by inverting the linear encoding; each latent becomes a square of one color."""
        x = torch.einsum("co,bohw->bchw", torch.linalg.pinv(self._mixing), latents.float().cpu())
        x = torch.nn.functional.interpolate(x, self._resolution, mode="nearest")
        pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())
