"""Training of small unconditional DDPMs, for the weights that ship and for retraining on subsets.

The recipe is data (`DDPMRecipe`), is written beside the weights it made, and is what
`attrbench train TASK` repeats. Objective and schedule: Ho et al. 2020 (arXiv 2006.11239), "simple" loss, or
the velocity in place of the noise (Salimans and Ho 2022) where the scheduler says `v_prediction`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load_file, save

from attrbench.files import write_atomically
from attrbench.models.late import diffusers
from attrbench_tasks.training.loop import RECIPE_FILE, Progress, Recipe, finish, fit

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
"""The weights in a folder that `train_ddpm` wrote."""


class DDPMRecipe(Recipe):
    """Training settings of a small DDPM: U-Net architecture, noise schedule, steps, learning rate, seed.

    Attributes:
        unet: keyword arguments of `diffusers.UNet2DModel`.
        scheduler: keyword arguments of `diffusers.DDPMScheduler`.
    """

    unet: dict[str, Any]
    scheduler: dict[str, Any] = Field(default_factory=dict)


def train_ddpm(
    recipe: DDPMRecipe,
    images: torch.Tensor,
    out: Path,
    *,
    device: torch.device,
    report: Callable[[int, float], None],
    checkpoint_every: int = 500,
) -> Path:
    """Train a DDPM on images and save it as a diffusers pipeline folder; a second call resumes a cut-off training.

    Args:
        recipe: what to do.
        images: [n, C, H, W] in [-1, 1].
        out: folder of the pipeline; the state for resuming lies there too until training ends.
        device: where to train.
        report: called with (steps done, mean loss since the last call) at every checkpoint.
        checkpoint_every: steps between checkpoints.

    Returns:
        `out`, loadable with `DDPMPipeline.from_pretrained`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        unet = diffusers.UNet2DModel(**recipe.unet).to(device).train()
    scheduler = diffusers.DDPMScheduler(**recipe.scheduler)
    timesteps = int(scheduler.config["num_train_timesteps"])
    velocity = scheduler.config["prediction_type"] == "v_prediction"
    images = images.to(device)

    def loss(chosen: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        batch = images[chosen.to(device)]
        t = torch.randint(0, timesteps, (len(batch),), generator=rng).to(device)
        noise = torch.randn(batch.shape, generator=rng).to(device)
        target = scheduler.get_velocity(batch, noise, t) if velocity else noise
        return F.mse_loss(unet(scheduler.add_noise(batch, noise, t), t).sample, target)

    ema = fit(recipe, unet, len(images), loss, Progress(out, report, checkpoint_every))
    averaged = diffusers.UNet2DModel(**recipe.unet)
    averaged.load_state_dict(ema)
    diffusers.DDPMPipeline(unet=averaged.eval(), scheduler=scheduler).save_pretrained(str(out), safe_serialization=True)
    finish(recipe, out)
    return out


def is_trained(folder: Path, recipe: DDPMRecipe) -> bool:
    """Return whether a folder holds weights of a finished DDPM training with exactly this recipe."""
    try:
        recipe_there = json.loads((folder / RECIPE_FILE).read_bytes())
    except (OSError, ValueError):
        return False
    return bool(recipe_there == recipe.model_dump(mode="json"))


def scaled(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return [n, H, W, C] uint8 images as a float tensor [n, C, H, W] in [-1, 1], the DDPM's input range."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def halve_weights(folder: Path) -> None:
    """Replace a saved DDPM's weights by half-precision ones, so that they ship in half the size.

    `DDPMDenoiser` reads them as float32.
    """
    write_atomically(folder / UNET_FILE, half_precision(folder / UNET_FILE))


def half_precision(path: Path) -> bytes:
    """Return the safetensors file at a path with its tensors in half precision."""
    return save({name: value.half() for name, value in load_file(path).items()}, {"format": "pt"})
