"""Reading of stored gradient rows of a training set from their shards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.computation import Shards
from attrbench.store.encoding import Codes, decode_rows


class StoredRows:
    """The gradient rows [n, T, v] of a training set, read from memory-mapped shards when they are asked for.

    Shards stay memory-mapped once they are read, which costs address space, not memory. The system drops pages under
    memory pressure, so the rows may be larger than the memory.

    Args:
        shards: shards of the rows.
        layers: layer name -> columns in a row; None if layers are not kept apart.
        sizes: layer name -> number of parameters.
    """

    def __init__(self, shards: Shards, layers: Mapping[str, slice] | None, sizes: Mapping[str, int]) -> None:
        self._shards = shards
        self.layers, self.sizes = layers, sizes
        self._starts = np.array([items.first for items in shards.ranges])
        self._arrays: dict[int, Mapping[str, NDArray[Any]]] = {}
        self.count = shards.ranges[-1].last - shards.ranges[0].first
        first = self._block(0)
        self._shape: tuple[int, ...] = first["rows"].shape[1:]
        self.width = math.prod(self._shape)
        stored = [first[name] for name in ("rows", "scales") if name in first]
        self.row_bytes = sum(array.nbytes for array in stored) // len(first["rows"])

    def _block(self, number: int) -> Mapping[str, NDArray[Any]]:
        if number not in self._arrays:
            self._arrays[number] = self._shards.block(number)
        return self._arrays[number]

    def _blocks(self) -> Iterator[tuple[int, Mapping[str, NDArray[Any]]]]:
        for number, first in enumerate(self._starts.tolist()):
            yield first, self._block(number)

    @cached_property
    def norms(self) -> NDArray[np.float32]:
        """Return the [n, T] norms of the whole gradients, which takes looking at every shard."""
        return np.concatenate([arrays["norms"] for _, arrays in self._blocks()])

    def take(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the gradient rows of these items in this order, [len(items), T, v] float32."""
        shards = np.searchsorted(self._starts, items, side="right") - 1
        rows = np.empty((len(items), *self._shape), np.float32)
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            within = items[here] - self._starts[shard]
            arrays = self._arrays.get(shard) or self._shards.block(shard, within)
            rows[here] = decode_rows(arrays, within)
        return rows

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (index of the first item, [items, T, v] gradient rows) for each shard in turn."""
        for first, arrays in self._blocks():
            yield first, decode_rows(arrays)

    def codes(self) -> Iterator[tuple[int, Codes]] | None:
        """Return (index of the first item, rows as they are stored) shard by shard; None where they are not int8."""
        if "scales" not in self._block(0):
            return None
        return ((first, Codes(arrays["rows"], arrays["scales"])) for first, arrays in self._blocks())
