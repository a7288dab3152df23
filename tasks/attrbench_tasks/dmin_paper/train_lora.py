"""Training of the DMin paper's text-to-image models by its Table 7 (arXiv 2412.08637), with accelerate and peft.

Optimizer, schedule, timesteps and the share of dropped prompts are not published. Here: AdamW (weight decay 0.01),
a constant learning rate, gradients clipped at norm 1, timesteps as the model was pre-trained (uniform for SD 1.x, the
logit of a normal variable for SD 3), every prompt kept: what diffusers' own training scripts do by default.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.contracts.task import Items, Workspace
from attrbench.data.open_dataset import list_items
from attrbench.errors import UsageError
from attrbench.models.config import ModelConfig
from attrbench.models.latent_model import LatentDenoiser
from attrbench.models.loading import INDEX, components, find_pipeline
from attrbench.taskfile.file_task import OpenFileTask
from attrbench_tasks.dmin_paper import constants as paper
from attrbench_tasks.dmin_paper.task_options import PaperOptions
from attrbench_tasks.training.loop import Progress, finish, fit
from attrbench_tasks.training.train_text_to_image import (
    NETWORK,
    Family,
    LoRARecipe,
    TextToImageRecipe,
    add_adapter,
    save_lora,
)
from attrbench_tasks.training.training_request import TrainingRequest

ENCODED_AT_ONCE = 256
"""Items whose images are read at once to be encoded before training."""


class PaperRecipe(TextToImageRecipe):
    """Training recipe of a fine-tuning by the DMin paper's Table 7: all that decides it besides the pixels.

    Attributes:
        model: the base.
        dataset: fingerprint of the training set.
        resolution: pixels on a side.
        micro_batch: images of one forward pass.
        precision: accelerate's mixed precision.
        vae: how latents are taken from the autoencoder.
    """

    model: str
    dataset: str
    resolution: int
    micro_batch: int
    precision: Literal["no", "bf16"]
    vae: Literal["mode", "sample"]


@dataclass(frozen=True)
class PaperBase:
    """A base model and the training set to fine-tune it on, in the form that `OpenFileTask` opens.

    Attributes:
        path: what messages call the task.
        model: the base, without LoRA.
        family: of the base.
        has_lora: whether a LoRA is trained, or the whole network.
        train_source: the training images.
        query_source: none; training asks nothing.
    """

    path: Path
    model: ModelConfig
    family: Family
    has_lora: bool
    train_source: DatasetSource
    query_source: None = None


def train_paper_task(
    base: PaperBase,
    options: PaperOptions,
    subset: NDArray[np.int64] | None,
    seed: int | None,
    out: Path,
    device: torch.device,
    report: Callable[[str], None],
) -> Path:
    """Fine-tune a base model's LoRA, or its whole network, into a folder; a second call resumes a cut-off training.

    Args:
        base: model and training set.
        options: those from `train_epochs` on decide the training.
        subset: [k] sorted indices of the items to train on; None for all.
        seed: in place of `train_seed`, if any.
        out: folder of the weights.
        device: where to train, unless accelerate was started with several processes.
        report: called with a line of progress now and then.

    Returns:
        `out`.

    Raises:
        AttrbenchError: where the data set is missing, or `out` holds another training.
    """
    accelerator = Accelerator(mixed_precision=options.train_precision, cpu=device.type == "cpu")
    if accelerator.num_processes > 1:
        device = accelerator.device  # of this process
    cache = out / "cache"
    listing = list_items(base.train_source, cache)
    opened = OpenFileTask(base, Workspace(cache, device), train=listing, pictures=None, draws=[])
    items = opened.train
    request = TrainingRequest(len(items), subset, seed)
    recipe = request.recipe(recipe_of(base, options, items))
    over = True
    try:
        over = request.begin(recipe, out, str(base.path), report)
    finally:
        if over and accelerator.is_main_process:  # finished earlier, or refused
            shutil.rmtree(cache, ignore_errors=True)
    if over:
        return out
    count = len(request.indices)
    parts = -(-min(recipe.batch_size, count) // recipe.micro_batch)
    if parts % accelerator.num_processes:
        raise UsageError(
            f"{accelerator.num_processes} processes cannot share {parts} micro-batches evenly: choose"
            " train_micro_batch so that a batch has a multiple of as many"
        )
    report(f"{base.path}: {count} images, {recipe.steps} steps of {recipe.batch_size}")
    progress = Progress(
        out,
        lambda step, loss: report(f"step {step} of {recipe.steps}: loss {loss:.4f}"),
        every=options.train_save_every,
    )
    denoiser: Any = opened.denoiser
    train(recipe, denoiser, items, request.indices, progress, accelerator)
    if accelerator.is_main_process:
        shutil.rmtree(cache, ignore_errors=True)
    return out


def recipe_of(base: PaperBase, options: PaperOptions, items: Items) -> PaperRecipe:
    """Return the fine-tuning recipe of the DMin paper's Table 7, where the task's options do not override it."""
    per_epoch = max(1, len(items) // options.train_batch)
    assert base.model.resolution is not None
    return PaperRecipe(
        family=base.family,
        model=base.model.model,
        dataset=items.fingerprint,
        resolution=base.model.resolution,
        steps=max(1, round(options.train_epochs * per_epoch)),
        batch_size=options.train_batch,
        micro_batch=options.train_micro_batch,
        learning_rate=options.train_learning_rate or paper.LEARNING_RATES["lora" if base.has_lora else "full"],
        warmup=0,
        cooldown=0,
        weight_decay=0.01,
        ema_decay=None,
        dropped_prompts=0,
        lora=LoRARecipe() if base.has_lora else None,
        seed=options.train_seed,
        precision=options.train_precision,
        vae=base.model.vae,
    )


def train(
    recipe: PaperRecipe,
    denoiser: LatentDenoiser,
    items: Items,
    indices: NDArray[np.int64],
    progress: Progress,
    accelerator: Accelerator,
) -> None:
    """Fine-tune a model on the items with these indices ([k]), and save its LoRA or whole pipeline."""
    network: Any = denoiser.module.train()
    if recipe.lora is None:
        network.requires_grad_(True)
    else:
        add_adapter(recipe, recipe.lora, network)
    denoiser.module = accelerator.prepare_model(network)
    encode_all(denoiser, items, indices)
    loss = PartsOfLoss(recipe, denoiser, items, indices, accelerator)
    weights = fit(recipe, network, len(indices), loss, progress, accelerator=accelerator)
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    network.eval()
    if recipe.lora is None:
        _save_pipeline(recipe, denoiser.config, network, progress.folder)
    else:
        save_lora(recipe, network, weights, progress.folder)


def encode_all(denoiser: LatentDenoiser, items: Items, indices: NDArray[np.int64]) -> None:
    """Encode images and prompts of these items ([k] indices) once before training, as far as memory allows.

    Encodings differ in their last bits with the batch that they are computed in. Encoding all of them in one order
    before the first step makes them the same in a training that was resumed. Offloaded encoders come to the device
    once, not with every micro-batch.
    """
    for first in range(0, len(indices), ENCODED_AT_ONCE):
        rows = indices[first : first + ENCODED_AT_ONCE].tolist()
        denoiser.encoders.latents(items.images[rows], "model")
        denoiser.encoders.conditioning([items.prompts[row] for row in rows])


class PartsOfLoss:
    """Training loss of a batch in micro-batches that fit into memory; every process computes its share of them.

    Noise and timesteps are drawn for the whole batch first, so that the batch's loss does not depend on how it is cut.
    """

    def __init__(
        self,
        recipe: PaperRecipe,
        denoiser: LatentDenoiser,
        items: Items,
        indices: NDArray[np.int64],
        accelerator: Accelerator | None = None,
    ) -> None:
        self._recipe = recipe
        self._denoiser = denoiser
        self._items = items
        self._indices = indices
        self._rank, self._processes = 0, 1
        if accelerator is not None:
            self._rank, self._processes = accelerator.process_index, accelerator.num_processes
        grid = TimestepGrid(kind="uniform", steps=denoiser.training_steps)
        self._timesteps = denoiser.timesteps(grid)

    def __call__(self, chosen: torch.Tensor, rng: torch.Generator) -> Iterator[torch.Tensor]:
        """Yield the batch's mean squared error in parts, one for each micro-batch of this process.

        They add up to it; over several processes, to their mean.
        """
        denoiser = self._denoiser
        noises = torch.randn((len(chosen), *denoiser.latent_shape), generator=rng)
        times = self._draw(len(chosen), rng)
        places = torch.arange(len(chosen)).split(self._recipe.micro_batch)[self._rank :: self._processes]
        for part in places:
            rows = self._indices[chosen[part].numpy()].tolist()
            encoded = denoiser.encode(self._items.images[rows], [self._items.prompts[row] for row in rows], "model")
            noise, t = noises[part].to(denoiser.device), times[part].to(denoiser.device)
            noisy = denoiser.noisy(encoded.latents, noise, t)
            predicted = denoiser.predict(noisy, t, encoded.conditioning).float()
            error = F.mse_loss(predicted, denoiser.target(encoded.latents, noise, t).float())
            yield error * (len(part) / len(chosen) * self._processes)

    def _draw(self, count: int, rng: torch.Generator) -> torch.Tensor:
        """Return [count] random training timesteps: uniform for SD 1.x, logit-normal for SD 3."""
        every = torch.tensor(self._timesteps)
        if self._recipe.family == "sd14":
            return every[torch.randint(0, len(every), (count,), generator=rng)]
        share = torch.randn(count, generator=rng).sigmoid()
        return every[(share * len(every)).long().clamp(max=len(every) - 1)]


def _save_pipeline(recipe: PaperRecipe, source: ModelConfig, network: Any, folder: Path) -> None:
    """Write a pipeline folder: the base's components, copied, with the fine-tuned network in place of its own."""
    base, index = find_pipeline(source)
    name = NETWORK[recipe.family]
    for component in components(index):
        if component != name:
            shutil.copytree(base / component, folder / component, dirs_exist_ok=True)
    network.save_pretrained(str(folder / name), safe_serialization=True)
    shutil.copyfile(base / INDEX, folder / INDEX)
    finish(recipe, folder)
