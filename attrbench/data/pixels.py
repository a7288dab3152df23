"""From any image file to the pixels that a model takes: one policy for all.

The first frame; turned as its EXIF data says; what is transparent lies on white; 16-bit gray is divided by 257; then
RGB, or gray for models of one channel; the largest centerd part of the target's shape; resized by Pillow's bicubic
filter, which averages where it shrinks. Color profiles are not applied.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

POLICY = 1
"""Raised whenever the same file gives other pixels than before."""

SUFFIXES = frozenset(
    ".avif .bmp .gif .jfif .jpeg .jpg .jp2 .pbm .pgm .png .ppm .tif .tiff .webp".split()  # noqa: SIM905
)
"""Files that are taken for images, in small letters."""


def to_pixels(image: Image.Image, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """[H, W, C] uint8 pixels of an image, for C = 3 or 1.

    Args:
        image: as `PIL.Image.open` gives it; it is decoded here.
        shape: (H, W, C).

    Raises:
        Exception: whatever Pillow raises for a file that is broken.
        ValueError: for pixels that no rule here turns into 8 bits.
    """
    height, width, channels = shape
    image.load()
    image = ImageOps.exif_transpose(image)
    image = _opaque(_eight_bits(image)).convert("RGB" if channels == 3 else "L")
    fitted = ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)
    return np.asarray(fitted).reshape(shape)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit gray, which Pillow would clip at 255, as 8 bits; everything else unchanged."""
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of unknown range")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("pixels need more than 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """What is transparent, on white."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


@contextmanager
def refusing_bombs() -> Iterator[None]:
    """Within, Pillow refuses an image from the size on at which it would only warn of a decompression bomb.

    The filter holds for all threads; enter it once, outside of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module=r"PIL\.(?!Image$)")  # advice about odd metadata
        yield


def what_is_wrong(error: Exception) -> str:
    """The reason why an image can't be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or broken at its beginning"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        limit = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        return f"more than {limit:.0f} million pixels, which could be a decompression bomb"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__
