"""Reading of one feature's shards: arrays, and the time that computing them took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.computation import Unit
from attrbench.store.shards import FeatureStore, Piece, Sidecar


class StoredShards:
    """The rows of a range of items, in their order, from the complete shards of a feature store.

    Args:
        store: the store of one feature and data split.
        items: range of items.
    """

    def __init__(self, store: FeatureStore, items: Unit) -> None:
        self._store = store
        self._items = items
        self._maps: dict[Path, Mapping[str, NDArray[Any]]] = {}

    @property
    def fingerprint(self) -> str:
        """Return the hash of all settings that decide the feature's numbers."""
        return self._store.fingerprint

    @cached_property
    def ranges(self) -> list[Unit]:
        """Return the ranges of items whose rows lie beside each other in one shard, in item order; reads no rows."""
        return [Unit(piece.first, piece.last) for piece in self._pieces]

    def block(self, number: int, rows: NDArray[np.int64] | None = None) -> Mapping[str, NDArray[Any]]:
        """Return the arrays by name of one of the `ranges`, memory-mapped and read-only.

        Those that belong to a shard as a whole come with each of its blocks.

        Args:
            number: which of the ranges.
            rows: the rows of the block that will be used; None for all.

        Raises:
            Damaged: where bytes do not match their checksum, which a process looks at before it uses them.
        """
        first, last, path, row = self._pieces[number]
        if path in self._maps:
            arrays = self._maps[path]
        elif rows is None:
            arrays = self._maps[path] = self._store.arrays_of(path)
        else:
            arrays = self._store.arrays_of(path, row + rows)
        shared, place = self._store.sidecar_of(path).shared, slice(row, row + last - first)
        return {name: array if name in shared else array[place] for name, array in arrays.items()}

    def blocks(self) -> Iterator[tuple[int, Mapping[str, NDArray[Any]]]]:
        """Yield (index of the first item, arrays by name) of each of the `ranges`, as `block` gives them."""
        for number, items in enumerate(self.ranges):
            yield items.first, self.block(number)

    def array(self, name: str) -> NDArray[Any]:
        """Return one array of the feature for all items, by its name, concatenated over the shards."""
        return np.concatenate([arrays[name] for _, arrays in self.blocks()])

    @cached_property
    def _pieces(self) -> list[Piece]:
        return self._store.pieces(self._items)

    @cached_property
    def _parts(self) -> list[tuple[Piece, Sidecar]]:
        return [(piece, self._store.sidecar_of(piece.shard)) for piece in self._pieces]

    def item_seconds(self) -> NDArray[np.float64]:
        """Return the seconds of computation for each item, [items]."""
        return np.concatenate(
            [sidecar.item_seconds[row : row + last - first] for (first, last, _, row), sidecar in self._parts]
        )

    @property
    def bytes(self) -> int:
        """Size of the shard files, as far as they hold the items' rows."""
        used: dict[Path, int] = {}
        for piece, _ in self._parts:
            used[piece.shard] = used.get(piece.shard, 0) + piece.last - piece.first
        sidecars = {piece.shard: sidecar for piece, sidecar in self._parts}
        return sum(round(sidecars[path].bytes * rows / sidecars[path].rows) for path, rows in used.items())

    def nonfinite(self) -> list[tuple[int, float]]:
        """Return the list of (item, timestep) of NaN or infinite gradients."""
        return [
            (first + lost - row, timestep)
            for (first, last, _, row), sidecar in self._parts
            for lost, timestep in sidecar.nonfinite
            if row <= lost < row + last - first
        ]

    def row_error(self) -> float:
        """Return the root mean square of the rows' relative error due to the storage type."""
        counts = [piece.last - piece.first for piece, _ in self._parts]
        squares = [count * sidecar.row_error**2 for count, (_, sidecar) in zip(counts, self._parts, strict=True)]
        return float(np.sqrt(sum(squares) / sum(counts)))

    def facts(self) -> dict[str, float]:
        """Return the named numbers in the metadata of the first shard."""
        return self._parts[0][1].facts
