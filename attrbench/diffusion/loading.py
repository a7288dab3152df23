"""Loading a model from its source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attrbench.diffusion.source import ModelSource

if TYPE_CHECKING:
    import torch

    from attrbench.diffusion.denoiser import Denoiser


def load_denoiser(source: ModelSource, device: torch.device) -> Denoiser:
    """The model of a source, on the device."""
    from attrbench.diffusion.ddpm import DDPMDenoiser

    return DDPMDenoiser(Path(source.model), device, source.sampling_steps)
