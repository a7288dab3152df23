"""A cache of a data set's decoded images in one memory-mapped file, so that they need not fit into memory."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.task import pixel_digest
from attrbench.data.manifest import Listing
from attrbench.data.pixels import POLICY, refusing_bombs, to_pixels, what_is_wrong
from attrbench.errors import AttrbenchError
from attrbench.store.artifacts import Artifact, Facts
from attrbench.store.fingerprint import fingerprint

CHUNK = 64
"""Number of images that are decoded before they are written: 50 MB at 512 pixels."""


@dataclass(frozen=True)
class KeptImages:
    """The decoded images of a data set as a memory-mapped array, with the unreadable ones and a hash.

    Attributes:
        images: [n, H, W, C] uint8, memory-mapped, read-only; unreadable images are left out.
        bad: item index -> reason, of every unreadable image.
        sha256: hash of `images`.
        digests: `attrbench.contracts.task.pixel_digest` of each image; empty where an earlier version kept them.
    """

    images: NDArray[np.uint8]
    bad: dict[int, str]
    sha256: str
    digests: Sequence[str] = ()


def kept_images(listing: Listing, shape: tuple[int, int, int], cache: Path) -> KeptImages:
    """Return all images of a listing at `shape` (H, W, C), decoded into a file of the cache unless they are there.

    Raises:
        AttrbenchError: where the cache can't be written to, or no image can be read.
    """
    key = fingerprint({"policy": POLICY, "shape": shape, "items": listing.stamp, "names": list(listing.names)})
    summary = f"{len(listing):,} images of {listing.where} as {'x'.join(map(str, shape))}"
    artifact = Artifact(cache / "images" / f"{key[:20]}.bin", "decoded images", summary)
    known = artifact.seal()
    if known is not None and _any_is_readable(listing, shape, known.facts["bad"]):
        artifact.drop()  # an image that could not be read can be read by now (a disk that was away)
    artifact_content = artifact.kept(
        lambda part: _decode_all(part, listing, shape),
        lambda path, facts: (path, facts),
    )
    path, facts = artifact_content.value
    if not facts["count"]:
        index, reason = facts["bad"][0]
        raise AttrbenchError(f"no image in {listing.where} can be read; {listing.names[index]}: {reason}")
    images = np.memmap(path, np.uint8, "r", shape=(facts["count"], *shape))
    return KeptImages(images, dict(facts["bad"]), facts["sha256"], facts.get("digests", ()))


def _any_is_readable(listing: Listing, shape: tuple[int, int, int], bad: Sequence[tuple[int, str]]) -> bool:
    with refusing_bombs():
        return any(not isinstance(_decode(listing, shape, index), str) for index, _ in bad)


def _check_room(folder: Path, listing: Listing, shape: tuple[int, int, int]) -> None:
    height, width, channels = shape
    need, free = len(listing) * height * width * channels, shutil.disk_usage(folder).free
    if need > free:
        raise AttrbenchError(
            f"the decoded images need {need / 1e6:,.0f} MB below {folder}, {free / 1e6:,.0f} MB are free: choose"
            " another folder with --cache, or fewer images (limit)"
        )


def _decode_all(part: Path, listing: Listing, shape: tuple[int, int, int]) -> Facts:
    """Decode all images into the file `part`; return their count, the unreadable ones with reasons, and the sha256."""
    _check_room(part.parent, listing, shape)
    digest, bad, digests = hashlib.sha256(), [], []
    with part.open("xb") as file:
        for index, decoded in enumerate(_decoded(listing, shape)):
            if isinstance(decoded, str):
                bad.append((index, decoded))
                continue
            data = decoded.tobytes()
            file.write(data)
            digest.update(data)
            digests.append(pixel_digest(decoded))
    return {"count": len(digests), "bad": bad, "sha256": digest.hexdigest(), "digests": digests}


def _decoded(listing: Listing, shape: tuple[int, int, int]) -> Iterator[NDArray[np.uint8] | str]:
    """Decode all images of a data set in threads; yield the [H, W, C] pixels of each, or why it can't be read."""
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
