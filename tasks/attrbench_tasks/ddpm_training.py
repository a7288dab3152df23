"""Training of small unconditional DDPMs.

The recipe is data (`DDPMRecipe`), is written beside the weights it made, and is what
`attrbench train TASK` repeats. Objective and schedule: Ho et al. 2020 (arXiv 2006.11239), "simple" loss.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from attrbench_tasks.fitting import Progress, Recipe, finish, fit

if TYPE_CHECKING:
    import torch


class DDPMRecipe(Recipe):
    """Everything that decides the weights, besides the images themselves.

    Attributes:
        unet: keyword arguments of `diffusers.UNet2DModel`.
        scheduler: keyword arguments of `diffusers.DDPMScheduler`.
    """

    unet: dict[str, Any]
    scheduler: dict[str, Any] = Field(default_factory=dict)


def train_ddpm(recipe: DDPMRecipe, images: torch.Tensor, device: torch.device, progress: Progress) -> Path:
    """Trains a DDPM and saves it in diffusers' folder format; a second call resumes where the first was cut off.

    Args:
        recipe: what to do.
        images: [n, C, H, W] in [-1, 1].
        device: where to train.
        progress: folder of the pipeline, and the report.

    Returns:
        The folder, loadable with `DDPMPipeline.from_pretrained`.
    """
    import torch
    import torch.nn.functional as F
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        unet = UNet2DModel(**recipe.unet).to(device).train()
    scheduler = DDPMScheduler(**recipe.scheduler)
    timesteps = int(scheduler.config["num_train_timesteps"])
    images = images.to(device)

    def loss(chosen: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        batch = images[chosen.to(device)]
        t = torch.randint(0, timesteps, (len(batch),), generator=rng).to(device)
        noise = torch.randn(batch.shape, generator=rng).to(device)
        return F.mse_loss(unet(scheduler.add_noise(batch, noise, t), t).sample, noise)

    ema = fit(recipe, unet, len(images), loss, progress)
    shipped = UNet2DModel(**recipe.unet)
    shipped.load_state_dict(ema)
    pipeline = DDPMPipeline(unet=shipped.eval().to(getattr(torch, recipe.dtype)), scheduler=scheduler)
    pipeline.save_pretrained(str(progress.folder), safe_serialization=True)
    finish(recipe, progress.folder)
    return progress.folder
