"""Loader of the full MNIST training set, from the Hugging Face hub or from an .npz file."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from attrbench.errors import AttrbenchError
from attrbench_tasks.datasets.labeled_arrays import Labeled, read_arrays


def load_mnist(dataset: str, count: int) -> Labeled:
    """Return MNIST's training set: [count, 28, 28, 1] uint8 images and [count] digits, checked for their number.

    Args:
        dataset: an .npz file, or the id of a data set on the hub with the columns `image` and `label`.
        count: how many there must be.

    Raises:
        AttrbenchError: where there is no such data set, or it is another one.
    """
    images, digits = read_arrays(Path(dataset).expanduser()) if dataset.endswith(".npz") else _from_hub(dataset)
    if images.shape != (count, 28, 28) or digits.shape != (count,) or images.dtype != "uint8":
        raise AttrbenchError(
            f"{dataset} holds {images.dtype} images of shape {images.shape} and {digits.shape} labels; the training set"
            f" of MNIST is uint8 ({count}, 28, 28)"
        )
    return images[..., None], digits.astype("int64")


def _from_hub(name: str) -> Labeled:
    local = "give a file instead: dataset=FILE.npz with x_train [60000, 28, 28] uint8 and y_train"
    try:
        from datasets import load_dataset  # heavy, and needed only where the images come from the hub
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
