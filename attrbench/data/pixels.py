"""Conversion of any image file to the uint8 pixels that a model takes, by the same rules for all data sets.

The first frame is taken, rotated by its EXIF orientation, composed on white where it is transparent; 16-bit gray is
divided by 257; converted to RGB, or gray for models with one channel; cropped centrally to the aspect ratio of the
target; and resized with Pillow's antialiased bicubic filter. Color profiles are not applied.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

POLICY = 1
"""Raised whenever a file gives other pixels than before; part of the cache's fingerprints."""

SUFFIXES = frozenset(
    ".avif .bmp .gif .jfif .jpeg .jpg .jp2 .pbm .pgm .png .ppm .tif .tiff .webp".split()  # noqa: SIM905
)
"""File name endings, in lower case, of files that are taken for images."""


def to_pixels(image: Image.Image, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return an image as [H, W, C] uint8 pixels: decoded, rotated, cropped centrally and resized to `shape`.

    Args:
        image: as `PIL.Image.open` returns it; it is decoded here.
        shape: (H, W, C), with C = 3 or 1.

    Raises:
        Exception: whatever Pillow raises for a broken file.
        ValueError: for floating-point pixels, or more than 16 bits.
    """
    height, width, channels = shape
    image.load()
    image = ImageOps.exif_transpose(image)
    image = _opaque(_eight_bits(image)).convert("RGB" if channels == 3 else "L")
    fitted = ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)
    return np.asarray(fitted).reshape(shape)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a 16-bit grayscale image scaled to 8 bits (Pillow would clip it); other images unchanged."""
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of unknown range")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("pixels need more than 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """Return the image on a white background if it has transparency, else the image itself."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


@contextmanager
def refusing_bombs() -> Iterator[None]:
    """Make Pillow raise an error for images of suspicious size (decompression bombs) inside the `with` block.

    The warning filter applies to all threads; enter it once, outside of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module=r"PIL\.(?!Image$)")  # advice about odd metadata
        yield


def what_is_wrong(error: Exception) -> str:
    """Return in a few words why an image can't be read, given the exception of opening it."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or broken at its beginning"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        limit = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        return f"more than {limit:.0f} million pixels, which could be a decompression bomb"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__
