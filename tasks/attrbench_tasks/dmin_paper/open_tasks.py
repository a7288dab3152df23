"""Loaded forms of the DMin paper's text-to-image tasks, with real weights or, to measure cost alone, random ones.

A scale run has random weights, images and conditioning at their real sizes: it measures time, memory and storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from attrbench.contracts.task import Items
from attrbench.data.content_digests import Contents
from attrbench.data.manifest import Listing
from attrbench.store.fingerprint import fingerprint
from attrbench.taskfile.file_task import OpenFileTask
from attrbench.taskfile.prompts import Draw

SCALE_QUERIES = 16
STRIDE = 97
"""Bytes between the beginnings of two images of a scale run; prime, so that their pixels never fall together."""


class OpenPaperTask(OpenFileTask):
    """A loaded text-to-image task of the DMin paper, which also notes where its queries' prompts come from."""

    said: Sequence[str] = ()

    @property
    def notes(self) -> Sequence[str]:
        """Return notes for the result record: where the prompts come from, and which images were left out."""
        return [*self.said, *super().notes]


class OpenScaleTask(OpenFileTask):
    """A loaded task with random weights, images and prompts, to measure a method's time, memory and storage."""

    @property
    def notes(self) -> Sequence[str]:
        """Return a note for the result record: weights are random, so only time, memory and storage count."""
        return ["scale run: random weights, images and conditioning; only time, memory and storage mean anything"]

    @cached_property
    def train(self) -> Items:
        """Return random training images with prompts, as many as `scale_items`, at the model's image size.

        The images are overlapping windows of one strip of bytes, so that they take little memory.
        """
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
    """Return [count, H, W, C] random uint8 images that share memory, to measure cost at real data set size.

    They are overlapping, read-only windows of one strip of bytes.
    """
    height, width, channels = shape
    size = height * width * channels
    strip = np.random.default_rng(0).integers(0, 256, size + STRIDE * (count - 1), dtype=np.uint8)
    strides = (STRIDE, width * channels, channels, 1)
    return as_strided(strip, (count, *shape), strides, writeable=False)


def scale_listing(count: int) -> Listing:
    """Return a listing of random images with names and prompts, but no files: opening one raises a LookupError."""

    def no_image(index: int) -> object:
        raise LookupError(f"image {index} of a scale run is no file")

    names = [f"random image {index}" for index in range(count)]
    contents = Contents("a scale run", [0] * count, no_image)  # type: ignore[arg-type]
    return Listing("a scale run", names, names, None, ["scale", count], no_image, contents)  # type: ignore[arg-type]


def scale_draws() -> list[Draw]:
    """Return the prompts and seeds of 16 queries, for a run that measures time, memory and storage alone."""
    return [Draw(f"random query {index}", index, "") for index in range(SCALE_QUERIES)]
