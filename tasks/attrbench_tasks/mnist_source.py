"""The full MNIST training set, from the hub or from a file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from attrbench.errors import AttrbenchError

if TYPE_CHECKING:
    from attrbench_tasks.classifier import Labelled

KEYS = (("x_train", "y_train"), ("x", "y"))


def load_mnist(dataset: str, count: int) -> Labelled:
    """[count, 28, 28, 1] uint8 images and [count] digits.

    Args:
        dataset: an .npz file, or the id of a data set on the hub with the columns `image` and `label`.
        count: how many there must be.

    Raises:
        AttrbenchError: where there is no such data set, or it is another one.
    """
    images, digits = _from_file(Path(dataset)) if dataset.endswith(".npz") else _from_hub(dataset)
    if images.shape != (count, 28, 28) or digits.shape != (count,) or images.dtype != "uint8":
        raise AttrbenchError(
            f"{dataset} holds {images.dtype} images of shape {images.shape} and {digits.shape} labels; the training set"
            f" of MNIST is uint8 ({count}, 28, 28)"
        )
    return images[..., None], digits.astype("int64")


def _from_file(path: Path) -> Labelled:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            for images, digits in KEYS:
                if images in file and digits in file:
                    return file[images], file[digits]
            names = ", ".join(file)
    except (OSError, ValueError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else "it is no readable .npz file"
        raise AttrbenchError(
            f"cannot load MNIST from {path}: {reason}; give one with x_train [60000, 28, 28] uint8 and y_train"
            " (dataset=FILE.npz)"
        ) from None
    raise AttrbenchError(f"{path} holds {names or 'nothing'}, not x_train and y_train (or x and y)")


def _from_hub(name: str) -> Labelled:
    import numpy as np

    local = "give a file instead: dataset=FILE.npz with x_train [60000, 28, 28] uint8 and y_train"
    try:
        from datasets import load_dataset
    except ImportError:
        raise AttrbenchError(
            f"loading {name} from the hub needs the package datasets: pip install datasets; or {local}"
        ) from None
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # its retries; what matters comes as an error
    try:
        split = load_dataset(name, split="train")
        return np.stack([np.asarray(image) for image in split["image"]]), np.array(split["label"])
    except Exception as error:  # the library raises errors of many kinds
        reason = " ".join(str(error).split())[:200]
        raise AttrbenchError(f"cannot load {name} from the hub ({type(error).__name__}: {reason}); {local}") from None
