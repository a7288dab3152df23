"""The paper's training recipe (Table 7) for its text-to-image tasks, with accelerate and peft.

Optimizer, schedule, timesteps and the share of dropped prompts are not published. Here: AdamW (weight decay 0.01),
a constant learning rate, gradients clipped at norm 1, timesteps as the model was pre-trained (uniform for SD 1.x, the
logit of a normal variable for SD 3), every prompt kept: what diffusers' own training scripts do by default.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.contracts.feature import TimestepGrid
from attrbench.contracts.task import Workspace
from attrbench.errors import AttrbenchError, UsageError
from attrbench.models.config import ModelConfig
from attrbench_tasks.dmin_paper import constants as paper
from attrbench_tasks.training.loop import RECIPE_FILE, STATE_FILE, Progress, finish, fit
from attrbench_tasks.training.train_text_to_image import (
    NETWORK,
    Family,
    LoRARecipe,
    TextToImageRecipe,
    add_adapter,
    save_lora,
)

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from attrbench.contracts.task import Items
    from attrbench.models.latent_model import LatentDenoiser
    from attrbench_tasks.dmin_paper.text_to_image_tasks import PaperTask

ENCODED_AT_ONCE = 256
"""Items that are encoded at once before an offloaded training."""


class PaperRecipe(TextToImageRecipe):
    """Everything that decides the weights, besides base model and images.

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
class _Base:
    """The base model and its training set, as `attrbench.taskfile` opens them."""

    path: Path
    model: ModelConfig
    train_source: DatasetSource
    query_source: None = None


def train_paper_task(task: PaperTask, out: Path, device: torch.device, report: Callable[[str], None]) -> None:
    """Trains the LoRA, or the whole network, into `out`; a second call resumes where the first was cut off.

    Raises:
        AttrbenchError: where the base model or the data set is missing.
    """
    from attrbench.data.open_dataset import list_items
    from attrbench.taskfile.file_task import OpenFileTask

    if task.scale:
        raise UsageError(f"task {task.meta.name}: weights=random has nothing to train")
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision=task.options.train_precision, cpu=device.type == "cpu")
    if accelerator.num_processes > 1:
        device = accelerator.device  # of this process
    task.find_model()
    source = task.model.model_copy(update={"lora": None, "attributed": "all", "dtype": "float32"})
    base = _Base(task.path, source, task.train_source)
    cache = out / "cache"
    listing = list_items(base.train_source, cache)
    opened = OpenFileTask(base, Workspace(cache, device), train=listing, pictures=None, draws=[])
    recipe = recipe_of(task, source, opened.train)
    if _is_done(recipe, out):
        report(f"{task.meta.name}: {out} holds the weights of this recipe already")
        return
    parts = -(-min(recipe.batch_size, len(opened.train)) // recipe.micro_batch)
    if parts % accelerator.num_processes:
        raise UsageError(
            f"{accelerator.num_processes} processes cannot share {parts} micro-batches evenly: choose"
            " train_micro_batch so that a batch has a multiple of as many"
        )
    report(f"{task.meta.name}: {len(opened.train)} images, {recipe.steps} steps of {recipe.batch_size}")
    denoiser: Any = opened.denoiser
    progress = Progress(
        out,
        lambda step, loss: report(f"step {step} of {recipe.steps}: loss {loss:.4f}"),
        every=task.options.train_save_every,
    )
    train(recipe, denoiser, opened.train, progress, accelerator)
    if accelerator.is_main_process:
        shutil.rmtree(cache, ignore_errors=True)


def recipe_of(task: PaperTask, source: ModelConfig, items: Items) -> PaperRecipe:
    """Table 7, as far as the options do not say otherwise."""
    options = task.options
    family: Family = "sd14" if task.base == paper.SD14 else "sd3"
    per_epoch = max(1, len(items) // options.train_batch)
    assert source.resolution is not None
    return PaperRecipe(
        family=family,
        model=source.model,
        dataset=items.fingerprint,
        resolution=source.resolution,
        steps=max(1, round(options.train_epochs * per_epoch)),
        batch_size=options.train_batch,
        micro_batch=options.train_micro_batch,
        learning_rate=options.train_learning_rate or paper.LEARNING_RATES["lora" if task.has_lora else "full"],
        warmup=0,
        cooldown=0,
        weight_decay=0.01,
        ema_decay=None,
        dropped_prompts=0,
        lora=LoRARecipe() if task.has_lora else None,
        seed=options.train_seed,
        precision=options.train_precision,
        vae=source.vae,
    )


def _is_done(recipe: PaperRecipe, out: Path) -> bool:
    """Whether a training of this recipe ended in the folder.

    Raises:
        AttrbenchError: where one of another recipe did.
    """
    file = out / RECIPE_FILE
    if not file.exists() or (out / STATE_FILE).exists():
        return False
    if PaperRecipe.model_validate_json(file.read_bytes()) == recipe:
        return True
    raise AttrbenchError(f"{out} holds the weights of another recipe: name another folder with --out")


def train(
    recipe: PaperRecipe, denoiser: LatentDenoiser, items: Items, progress: Progress, accelerator: Accelerator
) -> None:
    """Trains and saves what was trained."""
    network: Any = denoiser.module.train()
    if recipe.lora is None:
        network.requires_grad_(True)
    else:
        add_adapter(recipe, recipe.lora, network)
    denoiser.module = accelerator.prepare_model(network)
    if denoiser.config.offload:  # the encoders come to the device once, not with every micro-batch
        encode_all(denoiser, items)
    loss = PartsOfLoss(recipe, denoiser, items, accelerator)
    weights = fit(recipe, network, len(items), loss, progress, accelerator=accelerator)
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    network.eval()
    if recipe.lora is None:
        _save_pipeline(recipe, denoiser.config, network, progress.folder)
    else:
        save_lora(recipe, network, weights, progress.folder)


def encode_all(denoiser: LatentDenoiser, items: Items) -> None:
    """Encodes every item, as far as what is kept in main memory has room for it."""
    for first in range(0, len(items), ENCODED_AT_ONCE):
        few = slice(first, first + ENCODED_AT_ONCE)
        denoiser.encoders.latents(items.images[few], "model")
        denoiser.encoders.conditioning(items.prompts[few])


class PartsOfLoss:
    """The loss of a batch, micro-batch by micro-batch; every process takes its share of them.

    Noise and timesteps are drawn for the whole batch first, so that the batch's loss does not depend on how it is cut.
    """

    def __init__(
        self, recipe: PaperRecipe, denoiser: LatentDenoiser, items: Items, accelerator: Accelerator | None = None
    ) -> None:
        self._recipe = recipe
        self._denoiser = denoiser
        self._items = items
        self._rank, self._processes = 0, 1
        if accelerator is not None:
            self._rank, self._processes = accelerator.process_index, accelerator.num_processes
        grid = TimestepGrid(kind="uniform", steps=denoiser.training_steps)
        self._timesteps = denoiser.timesteps(grid)

    def __call__(self, chosen: torch.Tensor, rng: torch.Generator) -> Iterator[torch.Tensor]:
        """Yields parts of the mean squared error that add up to it (over the processes, to their mean)."""
        import torch
        import torch.nn.functional as F

        denoiser = self._denoiser
        noises = torch.randn((len(chosen), *denoiser.latent_shape), generator=rng)
        times = self._draw(len(chosen), rng)
        places = torch.arange(len(chosen)).split(self._recipe.micro_batch)[self._rank :: self._processes]
        for part in places:
            rows = chosen[part].tolist()
            encoded = denoiser.encode(self._items.images[rows], [self._items.prompts[row] for row in rows], "model")
            noise, t = noises[part].to(denoiser.device), times[part].to(denoiser.device)
            noisy = denoiser.noisy(encoded.latents, noise, t)
            predicted = denoiser.predict(noisy, t, encoded.conditioning).float()
            error = F.mse_loss(predicted, denoiser.target(encoded.latents, noise, t).float())
            yield error * (len(part) / len(chosen) * self._processes)

    def _draw(self, count: int, rng: torch.Generator) -> torch.Tensor:
        """Timesteps, [count]."""
        import torch

        every = torch.tensor(self._timesteps)
        if self._recipe.family == "sd14":
            return every[torch.randint(0, len(every), (count,), generator=rng)]
        share = torch.randn(count, generator=rng).sigmoid()
        return every[(share * len(every)).long().clamp(max=len(every) - 1)]


def _save_pipeline(recipe: PaperRecipe, source: ModelConfig, network: Any, folder: Path) -> None:
    """The base's pipeline folder with the trained network in it."""
    from attrbench.models.loading import INDEX, components, find_pipeline

    base, index = find_pipeline(source)
    name = NETWORK[recipe.family]
    for component in components(index):
        if component != name:
            shutil.copytree(base / component, folder / component, dirs_exist_ok=True)
    network.save_pretrained(str(folder / name), safe_serialization=True)
    shutil.copyfile(base / INDEX, folder / INDEX)
    finish(recipe, folder)
