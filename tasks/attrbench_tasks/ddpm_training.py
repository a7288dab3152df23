"""Training of small unconditional DDPMs: seeded, resumable, with an EMA of the weights.

The recipe is data (`DDPMRecipe`), is written beside the weights it made, and is what
`attrbench train TASK` repeats. Objective and schedule: Ho et al. 2020 (arXiv 2006.11239), "simple" loss.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from attrbench.diffusion.denoiser import CHECKPOINTS, LEARNING_RATES
from attrbench.files import write_atomically

if TYPE_CHECKING:
    import numpy as np
    import torch
    from diffusers import DDPMPipeline, UNet2DModel
    from numpy.typing import NDArray

STATE_FILE = "training-state.safetensors"
RECIPE_FILE = "recipe.json"


class DDPMRecipe(BaseModel):
    """Everything that decides the weights, besides the images themselves.

    Attributes:
        unet: keyword arguments of `diffusers.UNet2DModel`.
        scheduler: keyword arguments of `diffusers.DDPMScheduler`.
        steps: optimiser steps.
        batch_size: images a step, drawn epoch by epoch without replacement.
        learning_rate: peak of a cosine schedule that ends at zero.
        warmup: steps of linear warm-up.
        weight_decay: AdamW's decoupled weight decay.
        ema_decay: decay of the exponential moving average that is shipped.
        checkpoints: steps after which the average is kept beside the final weights, for methods that follow training.
        seed: decides initial weights, batch order, timesteps and noise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    unet: dict[str, Any]
    scheduler: dict[str, Any] = {}
    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 1e-4
    ema_decay: float = 0.999
    checkpoints: tuple[int, ...] = ()
    seed: int = 0

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero; `step` counts from 0."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def train_ddpm(
    recipe: DDPMRecipe,
    images: torch.Tensor,
    out: Path,
    *,
    device: torch.device,
    report: Callable[[int, float], None],
    checkpoint_every: int = 500,
) -> Path:
    """Trains a DDPM and saves it in diffusers' folder format; a second call resumes where the first was cut off.

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
    import torch
    import torch.nn.functional as F
    from diffusers import DDPMScheduler

    out.mkdir(parents=True, exist_ok=True)
    unet, ema, optimizer = _fresh(recipe, device)
    scheduler = DDPMScheduler(**recipe.scheduler)
    state_file = out / STATE_FILE
    step = _restore(recipe, state_file, unet, ema, optimizer) if state_file.exists() else 0
    images = images.to(device)
    losses: list[torch.Tensor] = []
    unet.train()
    while step < recipe.steps:
        batch, t, noise = _draw(recipe, images, step, int(scheduler.config["num_train_timesteps"]))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        predicted = unet(scheduler.add_noise(batch, noise, t), t).sample
        loss = F.mse_loss(predicted, noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        step += 1
        _update_ema(recipe, ema, unet, step)
        losses.append(loss.detach())
        if step in recipe.checkpoints:
            _keep(ema, out / CHECKPOINTS / f"step-{step}.safetensors")
        if step % checkpoint_every == 0 or step == recipe.steps:
            report(step, float(torch.stack(losses).mean()))
            losses.clear()
            _checkpoint(recipe, state_file, unet, ema, optimizer, step)
    pipeline = _pipeline(recipe, ema)
    pipeline.save_pretrained(str(out), safe_serialization=True)
    write_atomically(out / RECIPE_FILE, recipe.model_dump_json(indent=1).encode() + b"\n")
    if recipe.checkpoints:
        rates = {f"step-{step}": recipe.learning_rate_at(step - 1) for step in recipe.checkpoints}
        rates["final"] = recipe.learning_rate_at(recipe.steps - 1)
        write_atomically(out / CHECKPOINTS / LEARNING_RATES, json.dumps(rates, indent=1).encode() + b"\n")
    state_file.unlink()
    return out


def is_trained(folder: Path, recipe: DDPMRecipe) -> bool:
    """Whether `train_ddpm` has finished this recipe in `folder`."""
    try:
        kept = json.loads((folder / RECIPE_FILE).read_bytes())
    except (OSError, ValueError):
        return False
    return bool(kept == recipe.model_dump(mode="json"))


def scaled(images: NDArray[np.uint8]) -> torch.Tensor:
    """[n, C, H, W] in [-1, 1], as `train_ddpm` wants them, of [n, H, W, C] images."""
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def halve_weights(folder: Path) -> None:
    """Keeps the weights of a trained model in half precision; they are read as float32 all the same."""
    from safetensors.torch import load_file, save

    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    halves = {name: value.half() for name, value in load_file(path).items()}
    write_atomically(path, save(halves, {"format": "pt"}))


def _fresh(recipe: DDPMRecipe, device: torch.device) -> tuple[UNet2DModel, dict[str, torch.Tensor], torch.optim.AdamW]:
    import torch
    from diffusers import UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        unet = UNet2DModel(**recipe.unet).to(device)
    ema = {name: value.detach().clone() for name, value in unet.state_dict().items()}
    optimizer = torch.optim.AdamW(unet.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    return unet, ema, optimizer


def _draw(
    recipe: DDPMRecipe, images: torch.Tensor, step: int, timesteps: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One batch (images, timesteps, noise): a function of (seed, step) alone, so that a resumed run is the same run."""
    import torch

    per_epoch = max(1, len(images) // recipe.batch_size)
    epoch, within = divmod(step, per_epoch)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch))
    chosen = images[order[within * recipe.batch_size : (within + 1) * recipe.batch_size].to(images.device)]
    rng = torch.Generator().manual_seed(recipe.seed * 1_000_003 + 500_000_000 + step)
    t = torch.randint(0, timesteps, (len(chosen),), generator=rng).to(images.device)
    noise = torch.randn(chosen.shape, generator=rng).to(images.device)
    return chosen, t, noise


def _update_ema(recipe: DDPMRecipe, ema: dict[str, torch.Tensor], unet: UNet2DModel, step: int) -> None:
    decay = min(recipe.ema_decay, (1 + step) / (10 + step))
    for name, value in unet.state_dict().items():
        ema[name].lerp_(value.detach(), 1 - decay)


def _keep(ema: dict[str, torch.Tensor], path: Path) -> None:
    """Keeps the averaged weights as they are now, in half precision."""
    from safetensors.torch import save

    write_atomically(path, save({name: value.half().cpu().contiguous() for name, value in ema.items()}))


def _pipeline(recipe: DDPMRecipe, ema: dict[str, torch.Tensor]) -> DDPMPipeline:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    shipped = UNet2DModel(**recipe.unet)
    shipped.load_state_dict(ema)
    return DDPMPipeline(unet=shipped.eval(), scheduler=DDPMScheduler(**recipe.scheduler))


def _checkpoint(
    recipe: DDPMRecipe,
    path: Path,
    unet: UNet2DModel,
    ema: dict[str, torch.Tensor],
    optimizer: torch.optim.AdamW,
    step: int,
) -> None:
    from safetensors.torch import save

    tensors = {f"unet.{k}": v for k, v in unet.state_dict().items()} | {f"ema.{k}": v for k, v in ema.items()}
    for name, parameter in unet.named_parameters():
        moments = optimizer.state[parameter]
        tensors[f"m1.{name}"], tensors[f"m2.{name}"] = moments["exp_avg"], moments["exp_avg_sq"]
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"step": str(step), "recipe": recipe.model_dump_json()}
    write_atomically(path, save(tensors, metadata))


def _restore(
    recipe: DDPMRecipe, path: Path, unet: UNet2DModel, ema: dict[str, torch.Tensor], optimizer: torch.optim.AdamW
) -> int:
    import torch
    from safetensors import safe_open

    from attrbench.errors import AttrbenchError

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if json.loads(metadata["recipe"]) != json.loads(recipe.model_dump_json()):
            raise AttrbenchError(f"{path} was left by another recipe; delete it or train into another folder (--out)")
        step = int(metadata["step"])
        unet.load_state_dict({name: file.get_tensor(f"unet.{name}") for name in unet.state_dict()})
        for name, average in ema.items():
            average.copy_(file.get_tensor(f"ema.{name}"))
        for name, parameter in unet.named_parameters():
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": file.get_tensor(f"m1.{name}").to(parameter.device),
                "exp_avg_sq": file.get_tensor(f"m2.{name}").to(parameter.device),
            }
    return step
