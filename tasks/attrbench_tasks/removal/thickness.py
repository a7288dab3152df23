"""Stroke thickness of drawn digits, in pixels (methods-spec A4; the DMin paper names no formula)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ZOOM = 4
"""Pictures are enlarged so many times first: gray edges then count, and widths are not rounded to whole pixels."""

Formula = Literal["skeleton", "area"]


def thicknesses(images: NDArray[np.uint8], formula: Formula = "skeleton") -> NDArray[np.float64]:
    """[n] stroke thickness of [n, H, W, 1] pictures in their own pixels; NaN where nothing is drawn."""
    import numpy as np

    return np.array([thickness(image[..., 0], formula) for image in images], dtype=np.float64)


def thickness(image: NDArray[np.uint8], formula: Formula = "skeleton") -> float:
    """Stroke thickness of one picture ([H, W], white on black).

    The ink is what is brighter than one half, after linear enlargement.

    Args:
        image: the picture.
        formula: `skeleton`, twice the mean distance of the skeleton's points from the nearest background; `area`, the
            area of the ink divided by the length of its skeleton.

    Returns:
        Pixels of `image`; NaN where there is no ink.
    """
    import numpy as np
    from scipy.ndimage import distance_transform_edt, zoom
    from skimage.morphology import skeletonize

    large = zoom(np.pad(image, 1).astype(np.float32), ZOOM, order=1, grid_mode=True, mode="nearest")
    ink = large > 127.5
    if not ink.any():
        return float("nan")
    skeleton = skeletonize(ink)
    if formula == "area":
        return float(ink.sum() / skeleton.sum()) / ZOOM
    return 2 * float(distance_transform_edt(ink)[skeleton].mean()) / ZOOM
