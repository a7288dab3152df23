"""Labelled images in an .npz file, listed like those of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attrbench.data.listing import Listing
from attrbench.errors import AttrbenchError
from attrbench.files import sha256_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

KEYS = (("x_train", "y_train"), ("x", "y"))


def list_arrays(path: Path) -> Listing:
    """The images of a file with arrays `x_train` ([n, H, W] or [n, H, W, 3], uint8) and `y_train` ([n]), or `x`, `y`.

    Raises:
        AttrbenchError: one line, where the file is missing or holds something else.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            pair = next((pair for pair in KEYS if pair[0] in file and pair[1] in file), None)
            if pair is None:
                names = ", ".join(file) or "nothing"
                raise AttrbenchError(f"{path} holds {names}, not the arrays x_train and y_train (or x and y)")
            images, labels = file[pair[0]], file[pair[1]]
    except (OSError, ValueError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else "it is no readable .npz file"
        raise AttrbenchError(f"cannot load images from {path}: {reason}") from None
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.dtype != np.uint8 or images.shape[3:] not in ((), (3,)) or images.ndim < 3 or not len(images):
        raise AttrbenchError(f"{path}: images are {images.dtype} {images.shape}, not uint8 [n, H, W] or [n, H, W, 3]")
    if labels.shape != images.shape[:1]:
        raise AttrbenchError(f"{path}: {len(images)} images and labels of shape {labels.shape}")
    return Listing(
        where=str(path),
        names=[f"item {index}" for index in range(len(images))],
        captions=None,
        groups=[str(label) for label in labels.tolist()],
        stamp=sha256_of(path),
        open=_Opener(images),
    )


class _Opener:
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._images = images

    def __call__(self, index: int) -> Image.Image:
        from PIL import Image

        return Image.fromarray(self._images[index])
