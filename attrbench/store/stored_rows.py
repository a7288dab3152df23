"""Gradient rows read back from a store: the view `attrbench.contracts.feature.Rows`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attrbench.store.encoding import decode_rows
from attrbench.store.shards import FeatureStore, Unit


class StoredRows:
    """The gradient rows of `count` items across a store's shards.

    Shards stay memory-mapped once they are read, which costs address space, not memory: the second query finds the
    pages in place. The system drops them under pressure, so that the rows may exceed the memory.
    """

    def __init__(self, store: FeatureStore, count: int) -> None:
        self._shards = store.shards(Unit(0, count))
        self._arrays: list[dict[str, NDArray[Any]]] = [store.read(shard) for shard in self._shards]
        self._starts = np.array([shard.first for shard in self._shards])
        self.count = count
        self.norms: NDArray[np.float32] = np.concatenate([arrays["norms"] for arrays in self._arrays])
        first = self._arrays[0]
        self.width = first["rows"].shape[1] * first["rows"].shape[2]
        stored = [first[name] for name in ("rows", "scales") if name in first]
        self.row_bytes = sum(array.nbytes for array in stored) // len(first["rows"])

    def take(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """[len(items), T, v] rows of these items, in that order."""
        shards = np.searchsorted(self._starts, items, side="right") - 1
        steps, width = self._arrays[0]["rows"].shape[1:]
        rows = np.empty((len(items), steps, width), np.float32)
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            rows[here] = decode_rows(self._arrays[shard], items[here] - self._starts[shard])
        return rows

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yields (index of the first item, [items, T, v] rows) shard by shard."""
        for shard, arrays in zip(self._shards, self._arrays, strict=True):
            yield shard.first, decode_rows(arrays)
