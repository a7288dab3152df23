"""Thumbnails of items: pixels as small PNG, WebP or JPEG files, and the check that bytes are such a file."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from attrbench.contracts.task import Items
from attrbench.contracts.thumbnails import Thumbnail

SIDE = 96
"""Longer side in pixels of a thumbnail at most."""
LOSSLESS = 32
"""Longer side in pixels up to which a picture is kept as it is; one could see what compression does to it."""
QUALITY = 80
BEGINNINGS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


def thumbnail_picture(pixels: NDArray[np.uint8]) -> bytes:
    """Return [H, W, C] uint8 pixels, with C = 1 or 3, as a small picture: PNG up to 32 pixels, else WebP or JPEG."""
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    buffer = io.BytesIO()
    if max(picture.size) <= LOSSLESS:
        picture.save(buffer, "PNG", optimize=True)
        return buffer.getvalue()
    picture = picture.convert("RGB")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    picture.save(buffer, "WEBP" if features.check("webp") else "JPEG", quality=QUALITY)
    return buffer.getvalue()


def thumbnail_of(items: Items, item: int) -> Thumbnail:
    """Return the thumbnail of one item: its picture in small, with its group, caption and name."""
    name = items.names[item] if items.names else ""
    return Thumbnail(thumbnail_picture(items.images[item]), items.groups[item], items.prompts[item], name)


def media_type(picture: bytes) -> str | None:
    """Return the media type of a PNG, WebP or JPEG file by its first bytes, such as `image/png`; None for another."""
    found = next((kind for beginning, kind in BEGINNINGS.items() if picture.startswith(beginning)), None)
    return None if found == "image/webp" and picture[8:12] != b"WEBP" else found
