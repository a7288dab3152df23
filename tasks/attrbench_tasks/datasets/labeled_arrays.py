"""Readers of labeled images in an .npz file, as arrays or as a listing with the labels as groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attrbench.data.content_digests import Contents, digest_of
from attrbench.data.manifest import Listing
from attrbench.errors import AttrbenchError
from attrbench.files import sha256_of

Labeled = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images, [n, H, W, C], with their labels, [n]."""
KEYS = (("x_train", "y_train"), ("x", "y"))


def read_arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the images and labels of an .npz file: its arrays `x_train` and `y_train`, or `x` and `y`.

    Raises:
        AttrbenchError: one line, where the file is missing or has neither.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            for images, labels in KEYS:
                if images in file and labels in file:
                    return file[images], file[labels]
            names = ", ".join(file) or "nothing"
    except (OSError, ValueError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else "it is no readable .npz file"
        raise AttrbenchError(
            f"cannot load images from {path}: {reason}; give one with x_train, uint8, and y_train (dataset=FILE.npz)"
        ) from None
    raise AttrbenchError(f"{path} holds {names}, not x_train and y_train (or x and y)")


def list_arrays(path: Path) -> Listing:
    """Return a listing of an .npz file's n uint8 images, gray or RGB, with their class labels as groups.

    Raises:
        AttrbenchError: one line, where the file is missing or holds something else.
    """
    images, labels = read_arrays(path)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.dtype != np.uint8 or images.shape[3:] not in ((), (3,)) or images.ndim < 3 or not len(images):
        raise AttrbenchError(f"{path}: images are {images.dtype} {images.shape}, not uint8 [n, H, W] or [n, H, W, 3]")
    if labels.shape != images.shape[:1]:
        raise AttrbenchError(f"{path}: {len(images)} images and labels of shape {labels.shape}")
    stamp, opener = sha256_of(path), _Opener(images)
    return Listing(
        where=str(path),
        names=[f"item {index}" for index in range(len(images))],
        captions=None,
        groups=[str(label) for label in labels.tolist()],
        stamp=stamp,
        open=opener,
        contents=Contents(stamp, [0] * len(images), opener.digest),
    )


class _Opener:
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._images = images

    def __call__(self, index: int) -> Image.Image:
        return Image.fromarray(self._images[index])

    def digest(self, index: int) -> str:
        """Return a hash of the pixels and shape of an image."""
        image = self._images[index]
        return digest_of(f"{image.shape}".encode() + image.tobytes())
