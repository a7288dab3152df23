"""Task `digits-mini`: a DDPM on scikit-learn's 8x8 digits, which runs in seconds and is meant for tests."""

from __future__ import annotations

from functools import cache

import numpy as np
from sklearn.datasets import load_digits

from attrbench.contracts.task import TaskMeta
from attrbench_tasks.minis.open_ddpm import LabeledImages, MiniDDPMTask, two_level_recipe
from attrbench_tasks.training.classifier import ClassifierRecipe
from attrbench_tasks.training.train_ddpm import DDPMRecipe

TRAIN_IMAGES = 1500


class DigitsMini(MiniDDPMTask):
    """Task with a DDPM trained on scikit-learn's first 1,500 digits; the other 297 test its queries' classifier."""

    meta = TaskMeta(
        name="digits-mini",
        version=1,
        summary="DDPM (163k parameters) on 1,500 digits of 8x8 pixels, 100 generated queries; seconds, for tests",
        model="diffusers UNet2DModel (16, 32), trained by `attrbench train digits-mini`",
        dataset="scikit-learn load_digits, the first 1,500 (UCI Optical Recognition of Handwritten Digits)",
        license="images: CC BY 4.0 (Alpaydin, Kaynak); weights: Apache-2.0",
        train_items=TRAIN_IMAGES,
        memory="1 GB",
        notes="Queries are DDIM samples (50 steps) of fixed seeds. Their labels come from a classifier that"
        " is right on 95.6% of 297 held-out images; pictures that it gives less than 0.9 to are left out.",
    )

    @staticmethod
    @cache
    def data() -> LabeledImages:
        """Return scikit-learn's 8x8 digits as uint8: 1,500 to train DDPM and classifier, 297 to test the classifier."""
        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        labels = digits.target.astype(np.int64)
        train = (images[:TRAIN_IMAGES], labels[:TRAIN_IMAGES])
        return LabeledImages(train=train, classifier=train, held_out=(images[TRAIN_IMAGES:], labels[TRAIN_IMAGES:]))

    @staticmethod
    def recipes() -> tuple[DDPMRecipe, ClassifierRecipe]:
        """Return the training recipes: about 170 epochs for the DDPM, 60 for the classifier of its queries."""
        ddpm = two_level_recipe(8).model_copy(update={"checkpoints": (1_000, 2_000, 3_000)})
        return ddpm, ClassifierRecipe(size=8, epochs=60, shift=1)
