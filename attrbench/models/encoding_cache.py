"""A memory cache of encoded images and prompts, so that repeated passes over a data set encode each item once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Encoding = tuple[torch.Tensor, ...]


class EncodingCache:
    """A cache of encodings (latents or conditioning) by key in CPU memory, filled up to a number of bytes.

    What comes first stays: passes go over a set in the same order, and there a memory that makes room for the newest
    would have lost every item by the time that it comes again.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self._room = limit
        self._kept: dict[str, Encoding] = {}

    def through(self, keys: Sequence[str], compute: Callable[[list[int]], Sequence[Encoding]]) -> list[Encoding]:
        """Return the encodings of all keys, computing those not yet cached and caching them while there is room.

        Args:
            keys: of the items; equal ones are computed once.
            compute: gives the encodings of the items at some indices in `keys`.
        """
        first = {key: index for index, key in reversed(list(enumerate(keys))) if key not in self._kept}
        missing = sorted(first.values())
        fresh = dict(zip((keys[index] for index in missing), compute(missing), strict=True)) if missing else {}
        for key, encoding in fresh.items():
            size = sum(tensor.numel() * tensor.element_size() for tensor in encoding)
            if size <= self._room:
                self._room -= size
                self._kept[key] = encoding
        return [fresh[key] if key in fresh else self._kept[key] for key in keys]
