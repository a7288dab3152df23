"""Reading of stored gradient rows of a training set from their shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.computation import Shards
from attrbench.store.encoding import Codes, decode_rows


class StoredRows:
    """The gradient rows [n, T, v] of a training set, read from memory-mapped shards.

    Shards stay memory-mapped once they are read, which costs address space, not memory. The system drops pages under
    memory pressure, so the rows may be larger than the memory.

    Args:
        shards: shards of the rows.
        layers: layer name -> columns in a row; None if layers are not kept apart.
        sizes: layer name -> number of parameters.
    """

    def __init__(self, shards: Shards, layers: Mapping[str, slice] | None, sizes: Mapping[str, int]) -> None:
        blocks = list(shards.blocks())
        self.layers, self.sizes = layers, sizes
        self._arrays: list[Mapping[str, NDArray[Any]]] = [arrays for _, arrays in blocks]
        self._starts = np.array([first for first, _ in blocks])
        self.norms: NDArray[np.float32] = np.concatenate([arrays["norms"] for arrays in self._arrays])
        self.count = len(self.norms)
        first = self._arrays[0]
        self.width = first["rows"].shape[1] * first["rows"].shape[2]
        stored = [first[name] for name in ("rows", "scales") if name in first]
        self.row_bytes = sum(array.nbytes for array in stored) // len(first["rows"])

    def take(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the gradient rows of these items in this order, [len(items), T, v] float32."""
        shards = np.searchsorted(self._starts, items, side="right") - 1
        steps, width = self._arrays[0]["rows"].shape[1:]
        rows = np.empty((len(items), steps, width), np.float32)
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            rows[here] = decode_rows(self._arrays[shard], items[here] - self._starts[shard])
        return rows

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (index of the first item, [items, T, v] gradient rows) for each shard in turn."""
        for first, arrays in zip(self._starts.tolist(), self._arrays, strict=True):
            yield first, decode_rows(arrays)

    def codes(self) -> list[tuple[int, Codes]] | None:
        """Return (index of the first item, rows as they are stored) for each shard; None where they are not int8."""
        if "scales" not in self._arrays[0]:
            return None
        blocks = (Codes(arrays["rows"], arrays["scales"]) for arrays in self._arrays)
        return list(zip(self._starts.tolist(), blocks, strict=True))
