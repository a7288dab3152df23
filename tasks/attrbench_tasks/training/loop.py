"""The training loop that all recipes share: seeded, resumable, with an average of the weights.

A step is a function of (seed, step) alone, so that a training that was cut off and resumed is the same training.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from safetensors.torch import save

from attrbench.contracts.denoiser import CHECKPOINTS, LEARNING_RATES
from attrbench.errors import AttrbenchError
from attrbench.files import write_atomically

Weights = dict[str, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Generator], torch.Tensor | Iterator[torch.Tensor]]

STATE_FILE = "training-state.safetensors"
RECIPE_FILE = "recipe.json"


class Recipe(BaseModel):
    """What decides a training, besides the network and the items.

    Attributes:
        steps: optimizer steps.
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
        """Linear warm-up, then a cosine to zero; `step` counts from 0."""
        return self._rate(step, cooldown=1.0)

    def _rate(self, step: int, cooldown: float) -> float:
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        if cooldown == 0:
            return self.learning_rate * warm
        fallen = max(0.0, step - (1 - cooldown) * self.steps) / (cooldown * self.steps)
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * fallen))

    @property
    def end(self) -> int:
        """The number of steps that are taken."""
        return self.steps

    @property
    def in_bfloat16(self) -> bool:
        """Whether the forward pass of training runs in bfloat16 where PyTorch holds that safe."""
        return False

    def batch(self, items: int, step: int) -> tuple[torch.Tensor, torch.Generator]:
        """The items of a step ([batch_size] indices) and the generator of its other draws, both on the CPU."""
        per_epoch = max(1, items // self.batch_size)
        epoch, within = divmod(step, per_epoch)
        order = torch.randperm(items, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch))
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + 500_000_000 + step)
        return order[within * self.batch_size : (within + 1) * self.batch_size], rng


class LatentRecipe(Recipe):
    """A recipe of the parts of text-to-image models, which can do more.

    Attributes:
        cooldown: share of the steps, at their end, in which the learning rate falls to zero by a cosine; at 0 it
            stays.
        stop: where training ends, if before `steps`.
        dtype: of the shipped weights.
        autocast: whether the forward pass of training runs in bfloat16 where PyTorch holds that safe.
    """

    cooldown: float = 1.0
    stop: int | None = None
    dtype: Literal["float32", "float16"] = "float32"
    autocast: bool = False

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, a plateau, and a cosine to zero; `step` counts from 0."""
        return self._rate(step, self.cooldown)

    @property
    def end(self) -> int:
        """The number of steps that are taken."""
        return self.steps if self.stop is None else self.stop

    @property
    def in_bfloat16(self) -> bool:
        """As `autocast` says."""
        return self.autocast


@dataclass(frozen=True)
class Progress:
    """Where a training keeps its state and how it tells of it.

    Attributes:
        folder: holds the state for resuming until training ends, and the kept checkpoints.
        report: called with (steps done, mean loss since the last call) at every checkpoint.
        every: steps between checkpoints.
    """

    folder: Path
    report: Callable[[int, float], None]
    every: int = 500


def fit(
    recipe: Recipe,
    module: torch.nn.Module,
    items: int,
    loss: Loss,
    progress: Progress,
    kept: Callable[[Weights], Weights] = dict,
    accelerator: Accelerator | None = None,
) -> Weights:
    """Trains the parameters of `module` that require a gradient; a second call resumes where the first was cut off.

    Args:
        recipe: what to do.
        module: as it was initialized; in train mode or not, as it shall be trained.
        items: number of items to draw batches from.
        loss: of a batch, given as indices ([B]) and the generator of the step's other draws; or its parts one by one,
            whose gradients add up, where a batch does not fit into memory.
        progress: folder and report.
        kept: from the averaged weights to those that a checkpoint keeps.
        accelerator: that `module` was prepared with, if any; it brings its own precision and processes.

    Returns:
        The averaged weights by name, or the last ones where none are averaged. `module` holds the last ones.
    """
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    averaged = recipe.ema_decay is not None
    ema = {name: p.detach().clone() if averaged else p.detach() for name, p in parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    state = _State(recipe, progress.folder / STATE_FILE, parameters, ema, optimizer)
    compute = _Plain(recipe, next(iter(parameters.values())).device.type) if accelerator is None else accelerator
    main = accelerator is None or accelerator.is_main_process
    progress.folder.mkdir(parents=True, exist_ok=True)
    step = state.restore()
    losses: list[torch.Tensor] = []
    while step < recipe.end:
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        optimizer.zero_grad(set_to_none=True)
        value = _backward(partial(loss, *recipe.batch(items, step)), compute)
        compute.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        step += 1
        _average(recipe, ema, parameters, step)
        losses.append(value)
        if not main:
            continue
        if step in recipe.checkpoints:
            _keep(kept(ema), progress.folder / CHECKPOINTS / f"step-{step}.safetensors")
        if step % progress.every == 0 or step == recipe.end:
            progress.report(step, float(torch.stack(losses).mean()))
            losses.clear()
            state.save(step)
    return ema


@dataclass(frozen=True)
class _Plain:
    """What of accelerate's `Accelerator` is needed, without it."""

    recipe: Recipe
    device: str

    def autocast(self) -> Any:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.recipe.in_bfloat16)

    def backward(self, value: torch.Tensor) -> None:
        value.backward()

    def clip_grad_norm_(self, parameters: Iterable[torch.Tensor], most: float) -> None:
        torch.nn.utils.clip_grad_norm_(parameters, most)


def _backward(loss: Callable[[], torch.Tensor | Iterator[torch.Tensor]], compute: Any) -> torch.Tensor:
    """Leaves the gradients of a loss, or of the sum of its parts, on the parameters, and returns its value."""
    values: list[torch.Tensor] = []
    with compute.autocast():
        found = loss()
    parts = iter([found]) if isinstance(found, torch.Tensor) else found
    while True:
        with compute.autocast():
            part = next(parts, None)
        if part is None:
            return torch.stack(values).sum()
        compute.backward(part)
        values.append(part.detach())


def finish(recipe: Recipe, folder: Path) -> None:
    """Writes recipe and learning rates beside the weights, which the caller has saved, and drops the state."""
    write_atomically(folder / RECIPE_FILE, recipe.model_dump_json(indent=1).encode() + b"\n")
    if recipe.checkpoints:
        rates = {f"step-{step}": recipe.learning_rate_at(step - 1) for step in recipe.checkpoints}
        rates["final"] = recipe.learning_rate_at(recipe.end - 1)
        write_atomically(folder / CHECKPOINTS / LEARNING_RATES, json.dumps(rates, indent=1).encode() + b"\n")
    (folder / STATE_FILE).unlink()


def _average(recipe: Recipe, ema: Weights, parameters: dict[str, torch.nn.Parameter], step: int) -> None:
    if recipe.ema_decay is None:
        return
    decay = min(recipe.ema_decay, (1 + step) / (10 + step))
    for name, value in parameters.items():
        ema[name].lerp_(value.detach(), 1 - decay)


def _keep(weights: Weights, path: Path) -> None:
    """Keeps weights in half precision."""
    write_atomically(path, save({name: value.half().cpu().contiguous() for name, value in weights.items()}))


@dataclass(frozen=True)
class _State:
    """All that a training needs to go on: weights, their average, AdamW's moments, and the step."""

    recipe: Recipe
    path: Path
    parameters: dict[str, torch.nn.Parameter]
    ema: Weights
    optimizer: torch.optim.AdamW

    def save(self, step: int) -> None:
        averaged = self.recipe.ema_decay is not None
        tensors = {f"ema.{name}": value for name, value in self.ema.items() if averaged}
        for name, parameter in self.parameters.items():
            moments = self.optimizer.state[parameter]
            tensors[f"model.{name}"] = parameter
            tensors[f"m1.{name}"], tensors[f"m2.{name}"] = moments["exp_avg"], moments["exp_avg_sq"]
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        write_atomically(self.path, save(tensors, {"step": str(step), "recipe": self.recipe.model_dump_json()}))

    def restore(self) -> int:
        """The step to go on from: 0 where no state was left.

        Raises:
            AttrbenchError: for a state of another recipe.
        """
        if not self.path.exists():
            return 0
        with safe_open(self.path, framework="pt") as file, torch.no_grad():
            metadata = file.metadata()
            if type(self.recipe).model_validate_json(metadata["recipe"]) != self.recipe:
                raise AttrbenchError(
                    f"{self.path} was left by another recipe; delete it or train into another folder (--out)"
                )
            step = int(metadata["step"])
            for name, parameter in self.parameters.items():
                parameter.copy_(file.get_tensor(f"model.{name}"))
                if self.recipe.ema_decay is not None:
                    self.ema[name].copy_(file.get_tensor(f"ema.{name}"))
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": file.get_tensor(f"m1.{name}").to(parameter.device),
                    "exp_avg_sq": file.get_tensor(f"m2.{name}").to(parameter.device),
                }
        return step
