"""The paper's text-to-image tasks when they are open, and the images of scale runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from attrbench.contracts.task import Items
from attrbench.data.manifest import Listing
from attrbench.store.fingerprint import fingerprint
from attrbench.taskfile.file_task import OpenFileTask
from attrbench.taskfile.prompts import Draw

SCALE_QUERIES = 16
STRIDE = 97
"""Bytes between the beginnings of two images of a scale run; prime, so that their pixels never fall together."""


class OpenPaperTask(OpenFileTask):
    """As a task file's, with a word about the prompts."""

    said: Sequence[str] = ()

    @property
    def notes(self) -> Sequence[str]:
        """Where prompts come from, and what was left out."""
        return [*self.said, *super().notes]


class OpenScaleTask(OpenFileTask):
    """Random images and random conditioning for random weights: only time, memory and storage mean anything."""

    @property
    def notes(self) -> Sequence[str]:
        """What such a run is."""
        return ["scale run: random weights, images and conditioning; only time, memory and storage mean anything"]

    @cached_property
    def train(self) -> Items:
        """Images that are functions of their index alone; they take the memory of one."""
        shape = self.model_description.image_shape
        count = len(self._train)
        return Items(
            images=scale_images(count, shape),
            groups=[""] * count,
            prompts=list(self._train.captions or ()),
            fingerprint=fingerprint({"scale images": 1, "count": count, "shape": list(shape)}),
            names=self._train.names,
        )


def scale_images(count: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """[count, H, W, C] random uint8 images: overlapping, read-only windows of one strip of bytes."""
    height, width, channels = shape
    size = height * width * channels
    strip = np.random.default_rng(0).integers(0, 256, size + STRIDE * (count - 1), dtype=np.uint8)
    strides = (STRIDE, width * channels, channels, 1)
    return as_strided(strip, (count, *shape), strides, writeable=False)


def scale_listing(count: int) -> Listing:
    """Names and prompts of the images of a scale run; nothing can be decoded."""

    def no_image(index: int) -> object:
        raise LookupError(f"image {index} of a scale run is no file")

    names = [f"random image {index}" for index in range(count)]
    return Listing("a scale run", names, names, None, ["scale", count], no_image)  # type: ignore[arg-type]


def scale_draws() -> list[Draw]:
    """Queries; with random weights the model draws noise."""
    return [Draw(f"random query {index}", index, "") for index in range(SCALE_QUERIES)]
