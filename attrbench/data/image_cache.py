"""The decoded images of a data set from the cache, memory-mapped, so that they need not fit into memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attrbench.data.content_digests import digests_of
from attrbench.data.image_store import Decoded, ImageStore, Shape
from attrbench.data.manifest import Listing
from attrbench.data.pixels import refusing_bombs, to_pixels, what_is_wrong
from attrbench.errors import AttrbenchError, Damaged

CHUNK = 64
"""Number of images that are decoded before they are written: 50 MB at 512 pixels."""


@dataclass(frozen=True)
class KeptImages:
    """The decoded images of a data set, memory-mapped, with the unreadable ones.

    Attributes:
        images: [n, H, W, C] uint8, read-only; unreadable images are left out.
        bad: item index -> reason, of every unreadable image.
        digests: `attrbench.contracts.task.pixel_digest` of each image.
    """

    images: NDArray[np.uint8]
    bad: dict[int, str]
    digests: Sequence[str]


def kept_images(listing: Listing, shape: Shape, cache: Path) -> KeptImages:
    """Return all images of a listing at `shape` (H, W, C); those that the cache lacks are decoded into it.

    An image is found by the content of its file. So an added one is decoded alone, and a data set that is moved or put
    in another order decodes none.

    Raises:
        AttrbenchError: where the cache can't be written to, or no image can be read.
    """
    digests = digests_of(listing.contents, listing.names, cache)
    unread = [index for index, digest in enumerate(digests) if digest is None]
    bad = {index: _reason(listing, shape, index) for index in unread}
    items = {digest: index for index, digest in reversed(list(enumerate(digests))) if digest is not None}
    store = ImageStore(cache, shape, list(dict.fromkeys(digest for digest in digests if digest is not None)))
    lost = _add_missing(store, listing, shape, items)
    bad |= {index: lost[digest] for index, digest in enumerate(digests) if digest is not None and digest in lost}
    good = [digest for digest in digests if digest is not None and digest not in lost]
    if not good:
        index = min(bad)
        raise AttrbenchError(f"no image in {listing.where} can be read; {listing.names[index]}: {bad[index]}")
    try:
        images, pixel_digests = store.pixels(good)
    except Damaged:  # bytes changed on the disk since the images were decoded: those of that file once more
        _add_missing(store, listing, shape, items)
        images, pixel_digests = store.pixels(good)
    return KeptImages(images, dict(sorted(bad.items())), pixel_digests)


def _add_missing(store: ImageStore, listing: Listing, shape: Shape, items: Mapping[str, int]) -> dict[str, str]:
    """Decode the images that the store lacks; return digest and reason of those that can't be read.

    One that could not be read is tried again each time: it may be readable by now (a disk that was away).

    Args:
        store: of the images.
        listing: how an item is opened.
        shape: of the images.
        items: an item with each digest.
    """
    if not store.lacks(store.all):
        return {}
    with store.lock():
        ranges = store.missing(store.all)  # another process may just have decoded them
        missing = [digest for part in ranges for digest in store.keys[part.first : part.last]]
        if not missing:
            return {}
        _check_room(store.folder, len(missing), shape)
        return store.add(missing, _decoded(listing, shape, [items[digest] for digest in missing]))


def _check_room(folder: Path, count: int, shape: Shape) -> None:
    need, free = count * int(np.prod(shape)), shutil.disk_usage(folder).free
    if need > free:
        raise AttrbenchError(
            f"the decoded images need {need / 1e6:,.0f} MB below {folder}, {free / 1e6:,.0f} MB are free: choose"
            " another folder with --cache, or fewer images (limit)"
        )


def _decoded(listing: Listing, shape: Shape, items: Sequence[int]) -> Iterator[Decoded]:
    """Decode images of a data set in threads; yield the [H, W, C] pixels of each, or why it can't be read."""
    with refusing_bombs(), ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(items), CHUNK):
            yield from pool.map(partial(_decode, listing, shape), items[first : first + CHUNK])


def _decode(listing: Listing, shape: Shape, index: int) -> Decoded:
    try:
        with listing.open(index) as image:
            return to_pixels(image, shape)
    except Exception as error:  # Pillow's plugins raise anything over broken files
        return what_is_wrong(error)


def _reason(listing: Listing, shape: Shape, index: int) -> str:
    """Return why an image can't be read of which not even the bytes could."""
    (decoded,) = _decoded(listing, shape, [index])
    return decoded if isinstance(decoded, str) else "it could be read only at the second attempt; try again"
