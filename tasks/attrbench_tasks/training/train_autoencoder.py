"""Training of the small autoencoder that the text-to-image minis share (Rombach et al. 2022, without the GAN loss)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from attrbench.models.late import diffusers
from attrbench_tasks.training.loop import LatentRecipe, Progress, finish, fit

BATCH = 64


class AutoencoderRecipe(LatentRecipe):
    """Training settings of the small image autoencoder: architecture, loss weight, steps, learning rate.

    Attributes:
        vae: keyword arguments of `diffusers.AutoencoderKL`.
        kl_weight: weight of the KL divergence, a mean over latents, beside the mean squared error of the pixels.
    """

    vae: dict[str, Any]
    kl_weight: float


def train_autoencoder(
    recipe: AutoencoderRecipe, images: torch.Tensor, device: torch.device, progress: Progress
) -> diffusers.AutoencoderKL:
    """Train the small image autoencoder, scale its latents to unit variance, save it and return it.

    Args:
        recipe: what to do.
        images: [n, 3, H, W] in [-1, 1].
        device: where to train.
        progress: folder and report.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        vae = diffusers.AutoencoderKL(**recipe.vae).to(device).train()
    images = images.to(device)

    def loss(chosen: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        batch = images[chosen.to(device)]
        posterior = vae.encode(batch).latent_dist
        drawn = torch.randn(posterior.mean.shape, generator=rng).to(device)
        pixels = vae.decode(posterior.mean + posterior.std * drawn).sample
        error = F.mse_loss(pixels.float(), batch)
        total: torch.Tensor = error + recipe.kl_weight * posterior.kl().mean() / posterior.mean[0].numel()
        return total

    vae.load_state_dict(fit(recipe, vae, len(images), loss, progress))
    standardize(vae.eval(), images)
    vae.to(getattr(torch, recipe.dtype)).save_pretrained(str(progress.folder), safe_serialization=True)
    finish(recipe, progress.folder)
    return vae


def latents_of(vae: diffusers.AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Return the autoencoder's latents, [n, C, h, w] (posterior modes), of images [n, 3, H, W] in [-1, 1]."""
    with torch.no_grad():
        return torch.cat([vae.encode(batch).latent_dist.mode() for batch in images.split(BATCH)])


def standardize(vae: diffusers.AutoencoderKL, images: torch.Tensor) -> None:
    """Give each latent channel mean 0 and variance 1 over `images`, without changing the reconstructions.

    By changing the 1x1 convolutions around the latents. `scaling_factor` 1 and `shift_factor` 0 are right afterwards,
    also for SD 1.x, whose pipeline knows no shift.
    """
    latents = latents_of(vae, images)
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, out = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    with torch.no_grad():
        out.bias += out.weight[:, :, 0, 0] @ mean
        out.weight *= std[None, :, None, None]
        into.bias[:channels] = (into.bias[:channels] - mean) / std
        into.weight[:channels] /= std[:, None, None, None]
        into.bias[channels:] -= 2 * std.log()  # the posterior's log variances


def psnr(vae: diffusers.AutoencoderKL, images: torch.Tensor) -> float:
    """Return the autoencoder's mean peak signal-to-noise ratio, in dB, over its reconstructions of images."""
    with torch.no_grad():
        pixels = torch.cat([vae.decode(batch).sample.clamp(-1, 1) for batch in latents_of(vae, images).split(BATCH)])
    return float((10 * (4 / (pixels - images).square().mean((1, 2, 3))).log10()).mean())
