"""Stroke thickness of drawn digits, in pixels, which the removal tasks use to choose queries and compare models.

The DMin paper measures it and names no formula.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, zoom
from skimage.morphology import skeletonize

METRIC = "thinning"
"""Name of the metric of the removal tasks: by how many pixels the strokes of a new model's pictures are thinner."""
ZOOM = 4
"""Pictures are enlarged so many times first: gray edges then count, and widths are not rounded to whole pixels."""

Formula = Literal["skeleton", "area"]


def thicknesses(images: NDArray[np.uint8], formula: Formula = "skeleton") -> NDArray[np.float64]:
    """Return the [n] stroke thicknesses, in pixels, of [n, H, W, 1] images of digits; NaN for a blank image."""
    return np.array([thickness(image[..., 0], formula) for image in images], dtype=np.float64)


def thickness(image: NDArray[np.uint8], formula: Formula = "skeleton") -> float:
    """Return the stroke thickness, in pixels, of one image of a digit ([H, W] uint8, white on black).

    The ink is what is brighter than one half, after linear enlargement.

    Args:
        image: the picture.
        formula: `skeleton`, twice the mean distance of the skeleton's points from the nearest background; `area`, the
            area of the ink divided by the length of its skeleton.

    Returns:
        Pixels of `image`; NaN where there is no ink.
    """
    large = zoom(np.pad(image, 1).astype(np.float32), ZOOM, order=1, grid_mode=True, mode="nearest")
    ink = large > 127.5
    if not ink.any():
        return float("nan")
    skeleton = skeletonize(ink)
    if formula == "area":
        return float(ink.sum() / skeleton.sum()) / ZOOM
    return 2 * float(distance_transform_edt(ink)[skeleton].mean()) / ZOOM
