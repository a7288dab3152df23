"""Decoded images, kept as one memory-mapped file, so that a training set need not lie in memory."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from attrbench.data.manifest import Listing
from attrbench.data.pixels import POLICY, refusing_bombs, to_pixels, what_is_wrong
from attrbench.errors import AttrbenchError
from attrbench.store.checksums import ImageSeal, drop, is_whole, seal_path
from attrbench.store.fingerprint import fingerprint
from attrbench.store.locks import Claims

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("attrbench.data")

CHUNK = 64
"""Images decoded before they are written: 50 MB at 512 pixels."""


@dataclass(frozen=True)
class KeptImages:
    """Decoded images.

    Attributes:
        images: [n, H, W, C] uint8, memory-mapped, read-only; without those that can't be read.
        bad: item and reason of every image that can't be read.
        sha256: of the images.
    """

    images: NDArray[np.uint8]
    bad: dict[int, str]
    sha256: str


def kept_images(listing: Listing, shape: tuple[int, int, int], cache: Path) -> KeptImages:
    """Decodes all images of a listing to (H, W, C), or finds them in `cache`, where they stay.

    Raises:
        AttrbenchError: where the cache can't be written to, or not one image can be read.
    """
    import numpy as np

    key = fingerprint({"policy": POLICY, "shape": shape, "items": listing.stamp, "names": list(listing.names)})
    path = cache / "images" / f"{key[:20]}.bin"
    if not _is_there(path, listing, shape):
        with closing(Claims(cache / "claims" / path.stem)) as claims, claims.claim(0, wait=True):
            if not _is_there(path, listing, shape):  # another process may just have written it
                _write(path, listing, shape)
    seal = ImageSeal.read(path)
    with suppress(OSError):
        os.utime(seal_path(path))  # when it was last used (attrbench.store.cache_index)
    if not seal.shape[0]:
        index, reason = seal.bad[0]
        raise AttrbenchError(f"no image in {listing.where} can be read; {listing.names[index]}: {reason}")
    return KeptImages(np.memmap(path, np.uint8, "r", shape=seal.shape), dict(seal.bad), seal.sha256)


def _is_there(path: Path, listing: Listing, shape: tuple[int, int, int]) -> bool:
    """Whether the file is whole, and no image that could not be read can be read by now (a disk that was away)."""
    if not is_whole(path, ImageSeal):
        return False
    with refusing_bombs():
        return all(isinstance(_decode(listing, shape, index), str) for index, _ in ImageSeal.read(path).bad)


def _write(path: Path, listing: Listing, shape: tuple[int, int, int]) -> None:
    if path.exists() and not is_whole(path, ImageSeal):
        log.warning("decoded images %s are damaged (size or checksum differ): decoding them again", path)
    drop(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_room(path, listing, shape)
        _decode_all(path, listing, shape)
    except OSError as error:
        raise AttrbenchError(
            f"cannot write to the cache {path.parent}: {error.strerror}; free room there or choose another folder with"
            " --cache"
        ) from None


def _check_room(path: Path, listing: Listing, shape: tuple[int, int, int]) -> None:
    height, width, channels = shape
    need, free = len(listing) * height * width * channels, shutil.disk_usage(path.parent).free
    if need > free:
        raise AttrbenchError(
            f"the decoded images need {need / 1e6:,.0f} MB below {path.parent}, {free / 1e6:,.0f} MB are free: choose"
            " another folder with --cache, or fewer images (limit)"
        )


def _decode_all(path: Path, listing: Listing, shape: tuple[int, int, int]) -> None:
    """Decodes in threads, writes in order, and seals what came out."""
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    digest, bad, size = hashlib.sha256(), [], 0
    try:
        with part.open("wb") as file:
            for index, decoded in enumerate(_decoded(listing, shape)):
                if isinstance(decoded, str):
                    bad.append((index, decoded))
                    continue
                data = decoded.tobytes()
                size += file.write(data)
                digest.update(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:  # an interruption too must leave nothing half behind
        with suppress(OSError):
            part.unlink()
        raise
    count = len(listing) - len(bad)
    ImageSeal(bytes=size, sha256=digest.hexdigest(), shape=(count, *shape), bad=bad).write(path)


def _decoded(listing: Listing, shape: tuple[int, int, int]) -> Iterator[NDArray[np.uint8] | str]:
    """Each image's pixels, or the reason why there are none."""
    with refusing_bombs(), ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(listing), CHUNK):
            chunk = range(first, min(first + CHUNK, len(listing)))
            yield from pool.map(partial(_decode, listing, shape), chunk)


def _decode(listing: Listing, shape: tuple[int, int, int], index: int) -> NDArray[np.uint8] | str:
    try:
        with listing.open(index) as image:
            return to_pixels(image, shape)
    except Exception as error:  # Pillow's plugins raise anything over broken files
        return what_is_wrong(error)
