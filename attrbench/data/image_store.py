"""The store of decoded images in the cache: each lies there once for its content, whatever data set it is in."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.computation import Unit
from attrbench.contracts.task import pixel_digest
from attrbench.data.image_stack import stacked
from attrbench.data.pixels import POLICY
from attrbench.store.artifacts import Facts
from attrbench.store.fingerprint import fingerprint
from attrbench.store.item_store import PREFIX, ItemStore
from attrbench.store.shards import Sidecar

HEADER = 1024
"""Bytes at the beginning of a file that its header may take."""
DIGEST_BYTES = 16

Shape = tuple[int, int, int]
Decoded = NDArray[np.uint8] | str
"""The [H, W, C] pixels of an image, or why it can't be read."""


class Pixels(NamedTuple):
    """Images of a store, [n, H, W, C] uint8, memory-mapped and read-only, with their `pixel_digest`s."""

    images: NDArray[np.uint8]
    digests: list[str]


class _NoImage(Exception):
    """None of the images that were to be added could be read."""


class ImageStore(ItemStore):
    """The decoded images of one shape, found by a digest of the file that each was decoded from.

    A file holds as many images as were decoded at once, so that those of a data set lie side by side.

    Args:
        cache: the cache folder.
        shape: (H, W, C) of the images.
        digests: of the encoded images, distinct.
    """

    def __init__(self, cache: Path, shape: Shape, digests: Sequence[str]) -> None:
        text = "x".join(map(str, shape))
        description = {"images": text, "policy": POLICY}
        super().__init__(cache, description, digests, max(1, len(digests)), f"images as {text}", "decoded images")
        self._shape = shape

    @property
    def all(self) -> Unit:
        """The range of all images that were asked for."""
        return Unit(0, len(self.keys))

    def lock(self) -> AbstractContextManager[bool]:
        """Lock these images against other processes that would decode them at the same time."""
        return self._shard(self.path(self.all)).lock()

    def add(self, digests: Sequence[str], decoded: Iterator[Decoded]) -> dict[str, str]:
        """Write images to one file, as they are decoded; return digest and reason of those that can't be read.

        Raises:
            AttrbenchError: where the cache can't be written to.
        """
        bad: dict[str, str] = {}
        path = self.folder / f"{PREFIX}{fingerprint(list(digests))[:20]}.safetensors"

        def build(part: Path) -> Facts:
            good, marks = [], []
            with part.open("xb") as file:
                file.write(bytes(HEADER))
                for digest, pixels in zip(digests, decoded, strict=True):
                    if isinstance(pixels, str):
                        bad[digest] = pixels
                        continue
                    file.write(pixels.tobytes())
                    good.append(digest)
                    marks.append(pixel_digest(pixels))
                if not good:
                    raise _NoImage
                file.write(bytes.fromhex("".join(marks)))
                file.seek(0)
                file.write(self._header(len(good)))
            return _facts(good)

        with suppress(_NoImage):
            self._note(path, self._keep(path, build))
        return bad

    def _header(self, count: int) -> bytes:
        """Return the beginning of a safetensors file with so many images and digests, `HEADER` bytes."""
        ends = [0, count * int(np.prod(self._shape))]
        ends.append(ends[1] + count * DIGEST_BYTES)
        shapes = {"images": [count, *self._shape], "digests": [count, DIGEST_BYTES]}
        tensors = {
            name: {"dtype": "U8", "shape": shape, "data_offsets": ends[place : place + 2]}
            for place, (name, shape) in enumerate(shapes.items())
        }
        return (HEADER - 8).to_bytes(8, "little") + json.dumps(tensors).encode().ljust(HEADER - 8)

    def pixels(self, digests: Sequence[str]) -> Pixels:
        """Return images by the digests of their files, in this order and with repeats; all of them must be there."""
        distinct = copy.copy(self)
        distinct.keys = list(dict.fromkeys(digests))
        pieces = distinct.pieces(distinct.all)
        number = {path: place for place, path in enumerate(dict.fromkeys(piece.shard for piece in pieces))}
        arrays = [self.arrays_of(path) for path in number]
        file = np.concatenate([np.full(piece.last - piece.first, number[piece.shard]) for piece in pieces])
        row = np.concatenate([np.arange(piece.row, piece.row + piece.last - piece.first) for piece in pieces])
        places = {digest: place for place, digest in enumerate(distinct.keys)}
        order = np.array([places[digest] for digest in digests])
        file, row = file[order], row[order]
        marks = [array["digests"][:].tobytes().hex() for array in arrays]
        width = 2 * DIGEST_BYTES
        pixel_digests = [
            marks[f][r * width : (r + 1) * width] for f, r in zip(file.tolist(), row.tolist(), strict=True)
        ]
        return Pixels(stacked([array["images"] for array in arrays], file, row), pixel_digests)


def _facts(digests: Sequence[str]) -> Facts:
    count = len(digests)
    sidecar = Sidecar(
        bytes=0,
        sha256="",
        rows=count,
        seconds=0.0,
        item_seconds=[0.0] * count,
        features_in_pass=1,
        nonfinite=[],
        row_error=0.0,
        keys=list(digests),
    )
    return sidecar.model_dump(exclude={"bytes", "sha256"})
