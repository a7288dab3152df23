"""A task whose models take a second to train: waves of 8x8 pixels, a DDPM of 20 timesteps, thirty steps of training."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from attrbench.contracts.ground_truth import ComparesPictures, PictureFeatures, ShipsBanks, TruthSetting
from attrbench.contracts.method import Scorer, StateSize
from attrbench.contracts.options import Options
from attrbench.contracts.ranking import Ranking
from attrbench.contracts.task import Items, OpenTask, Task, TaskMeta, Trainable, Workspace
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.store.fingerprint import fingerprint
from attrbench_tasks.minis.open_ddpm import gray_unet
from attrbench_tasks.training.train_ddpm import DDPMRecipe, is_trained, scaled, train_ddpm

TRAIN, QUERIES, SIDE, TIMESTEPS = 24, 5, 8, 20
RECIPE = DDPMRecipe(
    unet=gray_unet(SIDE, [8], groups=4),
    scheduler={"num_train_timesteps": TIMESTEPS},
    steps=10,
    batch_size=6,
    learning_rate=3e-3,
)


def waves(count, seed):
    """[count, 8, 8, 1] waves of three directions under some noise."""
    rng = np.random.default_rng(seed)
    across, down = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    images = []
    for index in range(count):
        place = (across, down, across + down)[index % 3]
        images.append(127 + 90 * np.sin(place * rng.uniform(0.5, 1.2) + rng.uniform(0, 6)) + rng.normal(0, 9, (8, 8)))
    pixels = np.stack(images).clip(0, 255).round().astype(np.uint8)[..., None]
    groups = [str(index % 3) for index in range(count)]
    return Items(pixels, groups, [""] * count, fingerprint([pixels.tolist(), groups]))


class TinyTrainable(Task[Options], Trainable):
    """The task."""

    meta = TaskMeta(
        name="tiny-trainable",
        version=1,
        summary="waves",
        model="tiny",
        dataset="drawn with numpy",
        license="Apache-2.0",
        train_items=TRAIN,
        memory="1 GB",
        main_metric="lds",
    )
    Options = Options

    def open(self, workspace):
        return OpenTiny(self, workspace)

    def train(self, subset, seed, out, device, report):
        chosen = np.arange(TRAIN) if subset is None else subset
        recipe = RECIPE.model_copy(update={} if seed is None else {"seed": seed})
        if is_trained(out, recipe):
            return out
        images = scaled(waves(TRAIN, 0).images[chosen])
        return train_ddpm(recipe, images, out, device=device, report=lambda step, loss: report(f"step {step}"))

    def trained(self, folder, workspace):
        return DDPMDenoiser(folder, workspace.device, sampling_steps=4)

    def training_recipe(self):
        return RECIPE.model_dump(mode="json", exclude={"seed", "checkpoints"})


class Shipping(TinyTrainable, ShipsBanks):
    """The same with a bank of its own; `path` is set by a test."""

    path: Path

    def bank(self, design):
        return self.path


class OpenTiny(OpenTask, ComparesPictures):
    def __init__(self, task, workspace):
        self._task, self._workspace = task, workspace

    @cached_property
    def train(self):
        return waves(TRAIN, 0)

    @cached_property
    def queries(self):
        return replace(waves(QUERIES, 1), seeds=range(QUERIES))

    @property
    def picture_features(self):
        return PictureFeatures(lambda images: images.mean(axis=1).reshape(len(images), -1), "mean of each column")

    @cached_property
    def denoiser(self):
        out = self._workspace.cache / "whole-model"
        folder = self._task.train(None, None, out, self._workspace.device, lambda line: None)
        return self._task.trained(folder, self._workspace)


class TopScorer(Scorer):
    """Of a method that gives only its top: the first k items, for each query."""

    def top(self, query, k):
        ids = np.tile(np.arange(k), (len(query.ids), 1))
        return Ranking(ids, -ids.astype(np.float32))

    def size(self):
        return StateSize(shared=1)


def setting(cache: Path, kind=TinyTrainable) -> TruthSetting:
    """The task, opened with this cache."""
    task = kind(Options())
    workspace = Workspace(cache, torch.device("cpu"))
    return TruthSetting(task, task.open(workspace), workspace)
