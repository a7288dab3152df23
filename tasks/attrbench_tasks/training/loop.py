"""Training loop of diffusion models, autoencoders and text encoders: seeded, resumable, can average weights.

A step depends on the weights, the seed and the number of the step alone, so that a training that was cut off and
resumed ends at the same weights.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save

from attrbench.contracts.denoiser import CHECKPOINTS, LEARNING_RATES
from attrbench.files import write_atomically
from attrbench.interruptions import held_back
from attrbench.models.late import diffusers
from attrbench_tasks.training.training_state import Parameters, TrainingState, Weights, drop_states

Loss = Callable[[torch.Tensor, torch.Generator], torch.Tensor | Iterator[torch.Tensor]]

RECIPE_FILE = "recipe.json"
SAVE_SECONDS = 60.0
"""The state is saved after so many seconds, too."""
SAVE_SHARE = 20
"""But not before so many times the seconds that saving it took."""


class Recipe(BaseModel):
    """Training settings: steps, batch size, learning rate schedule, weight averaging, checkpoints and seed.

    Attributes:
        steps: number of optimizer steps.
        batch_size: items a step, drawn epoch by epoch without replacement.
        learning_rate: peak of a cosine schedule that ends at zero.
        warmup: steps of linear warm-up.
        weight_decay: AdamW's decoupled weight decay.
        ema_decay: decay of the exponential moving average that is shipped; None: the last weights are.
        checkpoints: steps after which the average is kept beside the final weights, for methods that follow training.
        seed: decides initial weights, batch order, timesteps and noise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 1e-4
    ema_decay: float | None = 0.999
    checkpoints: tuple[int, ...] = ()
    seed: int = 0

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate at a step, counted from 0: linear warm-up times a cosine down to zero."""
        return self._rate(step, cooldown=1.0)

    def _rate(self, step: int, cooldown: float) -> float:
        # not a schedule of diffusers.optimization: those begin at 0, and their cosine where the warm-up ends
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        if cooldown == 0:
            return self.learning_rate * warm
        fallen = max(0.0, step - (1 - cooldown) * self.steps) / (cooldown * self.steps)
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * fallen))

    @property
    def end(self) -> int:
        """Return the number of optimizer steps after which training ends."""
        return self.steps

    @property
    def in_bfloat16(self) -> bool:
        """Return whether training runs the forward pass in bfloat16, by PyTorch's autocast; False here."""
        return False

    def batch(self, items: int, step: int) -> tuple[torch.Tensor, torch.Generator]:
        """Return a step's item indices, [batch_size], and a random generator for its noise, from the seed and step.

        Both are on the CPU.
        """
        per_epoch = max(1, items // self.batch_size)
        epoch, within = divmod(step, per_epoch)
        order = torch.randperm(items, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch))
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + 500_000_000 + step)
        return order[within * self.batch_size : (within + 1) * self.batch_size], rng


class LatentRecipe(Recipe):
    """Training settings of the text-to-image parts: adds a constant-rate phase, early stop and precision.

    Attributes:
        cooldown: share of the steps, at their end, in which the learning rate falls to zero by a cosine; 0 for a
            constant rate.
        stop: number of steps after which training ends, if before `steps`.
        dtype: of the shipped weights.
        autocast: whether the forward pass of training runs under PyTorch's autocast to bfloat16.
    """

    cooldown: float = 1.0
    stop: int | None = None
    dtype: Literal["float32", "float16"] = "float32"
    autocast: bool = False

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate at a step, counted from 0: linear warm-up, constant, cosine to zero."""
        return self._rate(step, self.cooldown)

    @property
    def end(self) -> int:
        """Return the number of steps after which training ends: `stop` if given, else all steps of the schedule."""
        return self.steps if self.stop is None else self.stop

    @property
    def in_bfloat16(self) -> bool:
        """Return whether training runs the forward pass in bfloat16, as the recipe's `autocast` says."""
        return self.autocast


@dataclass(frozen=True)
class Progress:
    """Folder and report function of a training, and the number of steps after which its state is saved for resuming.

    Attributes:
        folder: holds the state for resuming until training ends, and the kept checkpoints.
        report: called with (steps done, mean loss since the last call) whenever the state is saved.
        every: steps between two savings of the state; it is also saved once a minute, and on SIGINT and SIGTERM.
    """

    folder: Path
    report: Callable[[int, float], None]
    every: int = 500

    def is_due(self, step: int) -> bool:
        """Return whether the training state is due to be saved: at multiples of `every` (and, in `fit`, at the end)."""
        return step % self.every == 0


def fit(
    recipe: Recipe,
    module: torch.nn.Module,
    items: int,
    loss: Loss,
    progress: Progress,
    checkpoint_weights: Callable[[Weights], Weights] = dict,
    accelerator: Accelerator | None = None,
) -> Weights:
    """Train a network's parameters by a recipe and return the averaged weights; a second call resumes a cut-off one.

    Args:
        recipe: what to do.
        module: as it was initialized; in train mode or not, as it shall be trained.
        items: number of items to draw batches from.
        loss: of a batch, given as indices ([B]) and the generator of the step's other draws; or its parts one by one,
            whose gradients add up, where a batch does not fit into memory.
        progress: folder and report.
        checkpoint_weights: from the averaged weights to those that a checkpoint keeps.
        accelerator: that `module` was prepared with, if any; it brings its own precision and processes.

    Returns:
        The averaged weights by name, or the last ones where none are averaged. `module` holds the last ones.
    """
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    average = _new_average(recipe, parameters)
    state = TrainingState(recipe, progress.folder, parameters, average, optimizer)
    compute = _Plain(recipe, next(iter(parameters.values())).device.type) if accelerator is None else accelerator
    main = accelerator is None or accelerator.is_main_process
    progress.folder.mkdir(parents=True, exist_ok=True)
    step = state.restore()
    losses: list[torch.Tensor] = []
    clock = _Clock()
    while step < recipe.end:
        with held_back() as is_stopped:  # the weights of half a step could not be saved
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate_at(step)
            optimizer.zero_grad(set_to_none=True)
            value = _backward(partial(loss, *recipe.batch(items, step)), compute)
            compute.clip_grad_norm_(parameters.values(), 1.0)
            optimizer.step()
            step += 1
            _average(recipe, average, parameters, step)
            losses.append(value)
            if not main:
                continue
            if step in recipe.checkpoints:
                weights = checkpoint_weights(state.averaged())
                _save_half_precision(weights, progress.folder / CHECKPOINTS / f"step-{step}.safetensors")
            if progress.is_due(step) or step == recipe.end or clock.is_due():
                progress.report(step, float(torch.stack(losses).mean()))
                losses.clear()
                clock.time(partial(state.save, step))
            elif is_stopped():
                state.save(step)
    return state.averaged()


class _Clock:
    """Time since the training state was saved, which says when that is due."""

    def __init__(self) -> None:
        self._saved = time.monotonic()
        self._took = 0.0

    def is_due(self) -> bool:
        return time.monotonic() - self._saved >= max(SAVE_SECONDS, SAVE_SHARE * self._took)

    def time(self, save: Callable[[], None]) -> None:
        """Save the state, and note when and how long that took."""
        started = time.monotonic()
        save()
        self._saved = time.monotonic()
        self._took = self._saved - started


def finish(recipe: Recipe, folder: Path) -> None:
    """Write a finished training's recipe and checkpoint learning rates beside its weights; delete its resume state."""
    write_atomically(folder / RECIPE_FILE, recipe.model_dump_json(indent=1).encode() + b"\n")
    if recipe.checkpoints:
        rates = {f"step-{step}": recipe.learning_rate_at(step - 1) for step in recipe.checkpoints}
        rates["final"] = recipe.learning_rate_at(recipe.end - 1)
        write_atomically(folder / CHECKPOINTS / LEARNING_RATES, json.dumps(rates, indent=1).encode() + b"\n")
    drop_states(folder)


@dataclass(frozen=True)
class _Plain:
    """Accelerate's methods that the loop calls, on one device, without its process-wide device and precision.

    An `Accelerator` fixes device and precision of the whole process; the parts of one model are trained in different
    precisions, and jobs of one process on different devices.
    """

    recipe: Recipe
    device: str

    def autocast(self) -> Any:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.recipe.in_bfloat16)

    def backward(self, value: torch.Tensor) -> None:
        value.backward()

    def clip_grad_norm_(self, parameters: Iterable[torch.Tensor], most: float) -> None:
        torch.nn.utils.clip_grad_norm_(parameters, most)


def _backward(loss: Callable[[], torch.Tensor | Iterator[torch.Tensor]], compute: Any) -> torch.Tensor:
    """Backpropagate a loss, or its parts one by one so that their gradients add up, and return its value."""
    values: list[torch.Tensor] = []
    with compute.autocast():
        result = loss()
    parts = iter([result]) if isinstance(result, torch.Tensor) else result
    while True:
        with compute.autocast():
            part = next(parts, None)
        if part is None:
            return torch.stack(values).sum()
        compute.backward(part)
        values.append(part.detach())


def _new_average(recipe: Recipe, parameters: Parameters) -> diffusers.EMAModel | None:
    """Return an exponential moving average of the parameters, or None where the recipe has none.

    Its decay is min(ema_decay, (1 + t) / (10 + t)) at step t = 1, 2, ...
    """
    if recipe.ema_decay is None:
        return None
    # EMAModel counts its warm-up from one step later than these recipes, hence -1; foreach rounds as `lerp` does
    return diffusers.EMAModel(parameters.values(), decay=recipe.ema_decay, update_after_step=-1, foreach=True)


def _average(recipe: Recipe, average: diffusers.EMAModel | None, parameters: Parameters, step: int) -> None:
    """Update the exponential moving average with the parameters' values after `step` optimizer steps."""
    if average is not None:
        average.optimization_step = step - 1
        average.step(parameters.values())


def _save_half_precision(weights: Weights, path: Path) -> None:
    write_atomically(path, save({name: value.half().cpu().contiguous() for name, value in weights.items()}))
