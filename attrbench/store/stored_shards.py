"""Reading of one feature's shards: arrays, and the time that computing them took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.computation import Unit
from attrbench.store.shards import FeatureStore, Sidecar


class StoredShards:
    """The complete shards of one feature that hold a range of items, for reading.

    Args:
        store: the store of one feature and data split.
        items: range of items.
    """

    def __init__(self, store: FeatureStore, items: Unit) -> None:
        self._store = store
        self._units = store.shards(items)

    @property
    def fingerprint(self) -> str:
        """Return the hash of all settings that decide the feature's numbers."""
        return self._store.fingerprint

    def blocks(self) -> Iterator[tuple[int, Mapping[str, NDArray[Any]]]]:
        """Yield (index of the first item, arrays by name) for each shard, memory-mapped and read-only."""
        for unit in self._units:
            yield unit.first, self._store.read(unit)

    def array(self, name: str) -> NDArray[Any]:
        """Return one array of the feature for all items, by its name, concatenated over the shards."""
        return np.concatenate([arrays[name] for _, arrays in self.blocks()])

    @cached_property
    def _sidecars(self) -> list[Sidecar]:
        return [self._store.sidecar(unit) for unit in self._units]

    def item_seconds(self) -> NDArray[np.float64]:
        """Return the seconds that computing the feature took for each item, [items]."""
        return np.concatenate([sidecar.item_seconds for sidecar in self._sidecars])

    @property
    def bytes(self) -> int:
        """Return the total size of the shard files in bytes."""
        return sum(sidecar.bytes for sidecar in self._sidecars)

    def nonfinite(self) -> list[tuple[int, float]]:
        """Return (item, timestep) of every gradient that was NaN or infinite and is stored as zero."""
        return [pair for sidecar in self._sidecars for pair in sidecar.nonfinite]

    def row_error(self) -> float:
        """Return the relative error of the stored rows due to the storage type, root mean square over shards."""
        squares = [sidecar.rows * sidecar.row_error**2 for sidecar in self._sidecars]
        return float(np.sqrt(sum(squares) / sum(sidecar.rows for sidecar in self._sidecars)))

    def facts(self) -> dict[str, float]:
        """Return the numbers by name in the metadata of the first shard, which the feature stored there."""
        return self._sidecars[0].facts
