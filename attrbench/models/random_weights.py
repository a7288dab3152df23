"""Real architectures with random weights: for measuring memory, time and storage where there is no hub.

Nothing of what they compute means anything. Latents and conditioning are functions of the picture and of the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.contracts.denoiser import CHECKPOINTS
from attrbench.errors import UsageError
from attrbench.models.config import ModelConfig
from attrbench.models.encoders import Encoders, Range, quiet
from attrbench.models.families.stable_diffusion import StableDiffusionDenoiser
from attrbench.models.families.stable_diffusion3 import StableDiffusion3Denoiser
from attrbench.models.latent_model import LatentDenoiser, Parts, resolution_of
from attrbench.models.lora import add_random_lora
from attrbench.models.model_fingerprint import model_digest
from attrbench.models.noise import gaussian, seed_of

CLIP_TOKENS, SD3_TOKENS = 77, 77 + 256


@dataclass(frozen=True)
class Architecture:
    """What a model is before it has weights.

    Attributes:
        network: configuration of the UNet or the transformer.
        scheduler: of the scheduler.
        factor: pixels on a side of what one latent stands for.
    """

    network: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    factor: int = 8

    @property
    def is_sd3(self) -> bool:
        """Whether it is of the third family."""
        return "joint_attention_dim" in self.network


SD14 = Architecture(
    network={
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    },
    scheduler={
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "set_alpha_to_one": False,
        "steps_offset": 1,
    },
)
SD3_MEDIUM = Architecture(
    network={
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 24,
        "attention_head_dim": 64,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 192,
    },
    scheduler={"num_train_timesteps": 1000, "shift": 3.0},
)
ARCHITECTURES = {
    "CompVis/stable-diffusion-v1-4": SD14,
    "stabilityai/stable-diffusion-3-medium-diffusers": SD3_MEDIUM,
}


def random_denoiser(source: ModelConfig, device: torch.device) -> LatentDenoiser:
    """The model that `source` names with weights drawn from a fixed seed, built in place: never twice in memory.

    `source.model` is one of `ARCHITECTURES`, or a local pipeline folder, of which only configurations are read.

    Raises:
        UsageError: where it is neither.
    """
    import diffusers

    architecture = _architecture(source.model)
    resolution = resolution_of(source, architecture.network, architecture.factor)
    kind = diffusers.SD3Transformer2DModel if architecture.is_sd3 else diffusers.UNet2DConditionModel
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler if architecture.is_sd3 else diffusers.DDIMScheduler
    with torch.device("meta"):
        network = kind.from_config(dict(architecture.network))
    with quiet():
        network = network.to(getattr(torch, source.dtype)).to_empty(device=device)
        if source.lora is not None:
            add_random_lora(network)
    _draw(network)
    parts = Parts(
        network=network,
        scheduler=scheduler.from_config(dict(architecture.scheduler)),
        encoders=RandomEncoders(architecture, resolution),
        fingerprint=model_digest(source, resolution, {"architecture": _description(architecture, source)}),
        checkpoint_folder=Path(source.model) / CHECKPOINTS,
    )
    denoiser = StableDiffusion3Denoiser if architecture.is_sd3 else StableDiffusionDenoiser
    return denoiser(parts, source, device)


def _description(architecture: Architecture, source: ModelConfig) -> str:
    lora = "with" if source.lora is not None else "without"
    return f"{json.dumps([architecture.network, architecture.scheduler], sort_keys=True, default=str)} {lora} LoRA"


def _architecture(model: str) -> Architecture:
    if model in ARCHITECTURES:
        return ARCHITECTURES[model]
    for network in ("unet", "transformer"):
        if (Path(model) / network / "config.json").is_file():
            configs = (network, "config.json"), ("scheduler", "scheduler_config.json"), ("vae", "config.json")
            found = [json.loads((Path(model) / folder / name).read_bytes()) for folder, name in configs]
            return Architecture(found[0], found[1], 2 ** (len(found[2]["block_out_channels"]) - 1))
    raise UsageError(
        f"model={model}: weights=random takes {' or '.join(ARCHITECTURES)}, or a local pipeline folder for its"
        " configurations"
    )


@torch.no_grad()
def _draw(module: torch.nn.Module) -> None:
    """Weights as layers begin with, spread 1/sqrt(inputs), drawn tensor by tensor on the CPU: the same anywhere."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.dim() == 1:
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        bound = (tensor.numel() / tensor.shape[0]) ** -0.5
        generator = torch.Generator().manual_seed(seed_of("weights", name))
        tensor.copy_(torch.empty(tensor.shape).uniform_(-bound, bound, generator=generator))


class RandomEncoders(Encoders):
    """Latents are means over squares of pixels through a fixed matrix; conditioning is noise that the prompt decides.

    Args:
        architecture: gives the shapes.
        resolution: pixels on a side.
    """

    def __init__(self, architecture: Architecture, resolution: int) -> None:
        super().__init__(resolution, architecture.factor)
        config = architecture.network
        self._resolution, self._factor = resolution, architecture.factor
        self._mixing = gaussian((int(config["in_channels"]), 3), "latents")
        if architecture.is_sd3:
            self._shapes = {
                "text": (SD3_TOKENS, int(config["joint_attention_dim"])),
                "pooled": (int(config["pooled_projection_dim"]),),
            }
        else:
            self._shapes = {"text": (CLIP_TOKENS, int(config["cross_attention_dim"]))}
        self.names = tuple(self._shapes)

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
        """Back through the matrix, each latent a square of one color."""
        x = torch.einsum("co,bohw->bchw", torch.linalg.pinv(self._mixing), latents.float().cpu())
        x = torch.nn.functional.interpolate(x, self._resolution, mode="nearest")
        pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())
