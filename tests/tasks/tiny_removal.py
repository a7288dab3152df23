"""A removal task whose models take a second: bars of known width, 8x8 pixels, six steps of training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attrbench.contracts.ground_truth import TrainingJob, TruthSetting
from attrbench.contracts.options import Spec
from attrbench.contracts.record import Record
from attrbench.contracts.task import TaskMeta, Workspace
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.progress import Reporter, Silent
from attrbench.evaluation.requests import TaskRequest, request_methods
from attrbench.evaluation.task_run import TaskRun
from attrbench.ground_truth.removal import OpenRemovalTruth
from attrbench.ground_truth.retraining import DrawnPictures, training_job
from attrbench.plugins.registry import Registry
from attrbench_tasks.minis.open_ddpm import gray_unet
from attrbench_tasks.removal.removal_task import RemovalOptions, RemovalTask
from attrbench_tasks.removal.thickness import METRIC
from attrbench_tasks.training.train_ddpm import DDPMRecipe

ITEMS, SIDE = 40, 8
RECIPE = DDPMRecipe(
    unet=gray_unet(SIDE, [8, 8], groups=4),
    steps=6,
    batch_size=8,
    learning_rate=1e-3,
)
SMALL = {"generations": 12, "queries": 4, "top_k": 4, "removed": 10, "seeds": 2, "pictures": 8}


def bars() -> tuple[np.ndarray, np.ndarray]:
    """Bars of 1 to 4 pixels at ten places, some of the pixels gray; the class is the place's parity."""
    rng = np.random.default_rng(0)
    images = np.zeros((ITEMS, SIDE, SIDE, 1), np.uint8)
    for item in range(ITEMS):
        left = item // 4 % 4
        images[item, 1:7, left : left + 1 + item % 4, 0] = rng.integers(180, 256)
    return images, np.arange(ITEMS) // 4 % 3


class TinyRemoval(RemovalTask):
    """`folder` is that of a trained model, set by `tiny_task`."""

    meta = TaskMeta(
        name="tiny-removal",
        version=1,
        summary="bars",
        model="tiny",
        dataset="drawn with numpy",
        license="Apache-2.0",
        train_items=ITEMS,
        memory="1 GB",
        main_metric=METRIC,
    )
    folder: Path
    checkpoint_every = 2

    def data(self) -> Any:
        return bars()

    @staticmethod
    def recipe() -> DDPMRecipe:
        return RECIPE

    def model(self) -> Path:
        return self.folder


def tiny_task(folder: Path, **options: Any) -> TinyRemoval:
    given = {**SMALL, **options}
    if given.get("removal") == "union":
        del given["removed"]
    task = TinyRemoval(RemovalOptions(**given))
    task.folder = folder
    return task


def setting(task: TinyRemoval, cache: Path) -> TruthSetting:
    """The task, opened with this cache."""
    workspace = Workspace(cache, torch.device("cpu"))
    return TruthSetting(task, task.open(workspace), workspace)


def removal(task: TinyRemoval, cache: Path) -> OpenRemovalTruth:
    """The experiment on the task."""
    opened = setting(task, cache)
    return OpenRemovalTruth(opened, opened.opened.removal)


def job_without(
    folder: Path, cache: Path, removed: tuple[int, ...], seed: int, pictures: int = 4, first_seed: int = 1_000_000
) -> TrainingJob:
    """The job of a model that does not see some items."""
    kept = np.setdiff1d(np.arange(ITEMS), removed) if removed else None
    return training_job(setting(tiny_task(folder), cache), kept, seed, DrawnPictures(first_seed, pictures))


@contextlib.contextmanager
def no_stage(name: str, total: int) -> Iterator[Any]:
    yield lambda: None


class Notes(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: dict[str, tuple[int, int]] = {}

    @contextlib.contextmanager
    def stage(self, name: str, total: int) -> Iterator[Any]:
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            self.steps[name] = (done, total)

        yield advance

    def note(self, line: str) -> None:
        self.lines.append(line)


def run(
    registry: Registry,
    task: RemovalTask,
    methods: list[str],
    out: Path,
    reporter: Reporter | None = None,
    **limits: int,
) -> list[Record]:
    """The records of methods on a task."""
    settings = RunSettings(out=out, cache=out / "cache", **limits)
    request = TaskRequest(Spec(task.meta.name, {}), task)
    methods = request_methods(registry, methods)
    return [result.record for result in TaskRun(registry, request, methods, settings, reporter or Silent()).results()]
