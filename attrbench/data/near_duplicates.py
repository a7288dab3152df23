"""Near-duplicates among images: the same picture saved again, scaled, compressed or slightly retouched.

Two images are near-duplicates if their pixels are equal, or if they differ by at most `LIMIT` gray levels of 255 (root
mean square over all channels) when each is reduced to `SIDE` x `SIDE` means. Another crop, a mirrored or a recolored
picture is no near-duplicate.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attrbench.contracts.task import Items

SIDE = 16
LIMIT = 4.0
KEPT = 4096
"""Number of reduced images in memory."""
BLOCK = 128
"""Number of images that are compared with earlier ones at once."""
Rows = NDArray[np.float32]


class NearDuplicates:
    """The near-duplicates among the items of a training set, looked up for the few that are asked about.

    Args:
        items: the training set.
    """

    def __init__(self, items: Items) -> None:
        self._items = items
        self._reduced = lru_cache(maxsize=KEPT)(self._reduce)

    def first_of(self, found: Sequence[int]) -> list[int]:
        """Return for each of several items the first of them that it is a near-duplicate of: itself, if of none.

        Each item is compared with those that are no near-duplicate of an earlier one, in the order given.
        """
        if not len(found):
            return []
        rows = np.stack([self._reduced(item) for item in found])
        return [found[head] for head in _heads(rows)]

    def _reduce(self, item: int) -> NDArray[np.float32]:
        return reduced(self._items.images[item]).reshape(-1)


def _heads(rows: Rows) -> list[int]:
    """Return for each of [n, d] reduced images the place of the first that it is a near-duplicate of, in their order.

    Only images that are no near-duplicate of an earlier one are compared with. A matrix product finds those that may be
    near, to within its rounding.
    """
    centered = rows - rows.mean(axis=0)
    squares = np.einsum("nd,nd->n", centered, centered)
    limit = LIMIT**2 * rows.shape[1] + 1e-5 * float(squares.max())  # of the sum of squares, with room for rounding
    heads: list[int] = []
    found: list[int] = []
    for start in range(0, len(rows), BLOCK):
        block, earlier = centered[start : start + BLOCK], np.array(heads, dtype=np.int64)
        apart = squares[start : start + BLOCK, None] + squares[earlier] - 2 * block @ centered[earlier].T
        maybe = apart <= limit
        own: list[int] = []
        for place, candidates in enumerate(maybe, start):
            first = _first_near(rows, place, [*earlier[candidates].tolist(), *own])
            found.append(place if first is None else first)
            if first is None:
                own.append(place)
        heads += own
    return found


def _first_near(rows: Rows, place: int, others: list[int]) -> int | None:
    """Return the first of several images that is nearly equal to the one at a place."""
    if not others:
        return None
    near = np.flatnonzero(np.mean((rows[others] - rows[place]) ** 2, axis=1) <= LIMIT**2)
    return others[near[0]] if len(near) else None


def reduced(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return an image ([H, W, C] uint8) as [SIDE, SIDE, C] means over its area; a smaller one is repeated."""
    channels = [Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[2])]
    return np.stack([np.asarray(c.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32) for c in channels], axis=2)
