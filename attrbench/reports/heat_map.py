"""Heat maps over pictures: signed values by position, red above zero and blue below."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FOR, AGAINST = (214, 39, 40), (31, 87, 180)
FADED = 0.55
"""Share of white in the picture below the colors."""


def over(image: NDArray[np.uint8], values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return a picture in faded gray with the values in color over it, [H, W, 3].

    The strength of a color is |value| over the largest; positions are enlarged to the picture without smoothing.

    Args:
        image: [H, W, C].
        values: [h, w].
    """
    height, width = image.shape[:2]
    largest = float(np.abs(values).max())
    share = (values / largest if largest > 0 else np.zeros_like(values)).astype(np.float32)
    share = np.asarray(Image.fromarray(share).resize((width, height), Image.Resampling.NEAREST))[..., None]
    gray = image.astype(np.float64).mean(axis=2, keepdims=True) * (1 - FADED) + 255 * FADED
    color = np.where(share > 0, np.array(FOR, np.float64), np.array(AGAINST, np.float64))
    mixed: NDArray[np.uint8] = (gray * (1 - np.abs(share)) + color * np.abs(share)).round().astype(np.uint8)
    return mixed
