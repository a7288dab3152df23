"""Store features in shards: safetensors files with the rows of up to 64 items, each an artifact of the cache.

A kill at any moment leaves complete shards and missing shards, and running the command again computes the missing
ones. Several processes may fill one store: equal work gives equal numbers, up to rounding, and the last rename wins.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import save

from attrbench.contracts.computation import Unit
from attrbench.errors import AttrbenchError, Damaged
from attrbench.files import write_new
from attrbench.store.artifacts import Artifact, Facts, cache_errors, log_damaged_copy
from attrbench.store.checked_files import CheckedFiles
from attrbench.store.checksums import Checked, Seal
from attrbench.store.fingerprint import fingerprint
from attrbench.store.mapped_files import ODD_HEADER, map_safetensors
from attrbench.store.read_only import copies
from attrbench.store.row_sums import row_sums

__all__ = ["FeatureStore", "Piece", "Sidecar", "Timing", "Unit", "map_safetensors", "shard_items", "units"]

log = logging.getLogger(__name__)

SHARD_ITEMS = 64
SHARD_BYTES = 128 * 2**20
SHARD_SCHEMA = 5
SUMMED = 2**18
"""Bytes of a shard from which on each row has a checksum of its own."""
FEATURE = "feature.json"


def units(count: int, size: int = SHARD_ITEMS) -> list[Unit]:
    """Split `count` items into consecutive ranges of up to `size` items, the units of work and of storage."""
    return [Unit(first, min(first + size, count)) for first in range(0, count, size)]


def shard_items(row_bytes: int, most: int = SHARD_ITEMS) -> int:
    """Return the number of items per shard: the largest power of two up to `most` within 128 MiB.

    It depends on the feature alone, so that all processes divide the items alike.
    """
    fitting = max(1, min(most, SHARD_BYTES // max(1, row_bytes)))
    return 1 << (fitting.bit_length() - 1)


class Sidecar(BaseModel):
    """The metadata of one shard of features: size, hash, computing time and non-finite gradients.

    Attributes:
        bytes, sha256: size and hash of the file.
        rows: number of items.
        seconds: duration of the pass that computed it, for all features of that pass together.
        item_seconds: that duration for each item.
        features_in_pass: number of features that the pass computed.
        nonfinite: (row, timestep) of NaN or infinite gradients, whose rows are zero.
        row_error: root mean square of the rows' relative error due to the storage type.
        facts: numbers reported by a method's transform of the query gradients, if it has one.
        shared: names of arrays that belong to the whole shard, not row by row to its items.
        keys: the items' keys in the order of the rows, of a shard that is found by them (`ItemStore`).
        row_sums: checksum of each row (`attrbench.store.row_sums`); empty for small shards and with shared arrays.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int
    sha256: str
    rows: int
    seconds: float
    item_seconds: list[float]
    features_in_pass: int
    nonfinite: list[tuple[int, int | float]]
    row_error: float
    facts: dict[str, float] = {}
    shared: list[str] = []
    keys: list[str] = []
    row_sums: list[int] = []

    @classmethod
    def of(cls, seal: Seal) -> Self:
        """Return a shard's metadata from its seal (the JSON file with its size and checksum).

        Raises:
            ValueError: where the seal is not that of a shard.
        """
        return cls.model_validate({"bytes": seal.bytes, "sha256": seal.sha256} | seal.facts)


class FeatureFile(Checked):
    """The content of the file `feature.json`, which describes the shards in its folder.

    Attributes:
        of: task and data split of the run that wrote the first shard, such as `digits-mini v1 train`.
        kind, summary: see `attrbench.store.checksums.Seal`.
        description: everything that decides the numbers; its fingerprint is the folder's name.
    """

    of: str
    kind: str
    summary: str
    description: dict[str, Any]


@dataclass(frozen=True)
class Timing:
    """The part of a shard's metadata that is known when computed: times, non-finite gradients, storage error."""

    item_seconds: Sequence[float]
    features_in_pass: int
    nonfinite: Sequence[tuple[int, int | float]] = ()
    row_error: float = 0.0
    facts: Mapping[str, float] = field(default_factory=dict)
    shared: Sequence[str] = ()


class Piece(NamedTuple):
    """The items first .. last - 1 of a split, whose rows lie beside each other in one shard, from `row` on."""

    first: int
    last: int
    shard: Path
    row: int


class FeatureStore:
    """The stored shards of one feature of one data split, in a cache folder named by a fingerprint.

    Shards hold ranges of the split, for features whose numbers depend on all of its items, such as Gram matrices. See
    `attrbench.store.item_store.ItemStore` for those whose rows depend on their own item alone.

    Args:
        root: the cache folder.
        description: everything that decides the numbers; written beside the shards as `feature.json`.
        items: number of items in a shard, a power of two (`shard_items`).
        summary: one line that describes the feature, such as "sketch v=4096, T=5".
        kind: kind of feature, such as "gradient rows".
        of: task and data split, for `attrbench cache ls`.
    """

    def __init__(
        self,
        root: Path,
        description: dict[str, object],
        items: int = SHARD_ITEMS,
        summary: str = "",
        kind: str = "",
        of: str = "",
    ) -> None:
        self.shard_items = items
        self.description = {"schema": SHARD_SCHEMA} | description
        self.summary = summary
        self.kind = kind or "feature"
        self.of = of
        self.fingerprint = fingerprint(self.description)
        self.folder = root / "features" / self.fingerprint[:20]
        self._verified: dict[Path, Sidecar] = {}
        self._checked = CheckedFiles(self.folder)
        self._touched = False

    def shards(self, unit: Unit) -> list[Unit]:
        """Return the item ranges of the shards into which the range `unit` of items is divided."""
        cut = units(unit.last - unit.first, self.shard_items)
        return [Unit(unit.first + part.first, unit.first + part.last) for part in cut]

    def lacks(self, unit: Unit) -> bool:
        """Return whether any shard within `unit` is missing or damaged."""
        return bool(self.lacking(unit))

    def lacking(self, unit: Unit) -> list[Unit]:
        """Return the shards within `unit` that are missing or damaged."""
        return [shard for shard in self.shards(unit) if self.state(shard) != "done"]

    def missing(self, unit: Unit) -> list[Unit]:
        """Return the shards of the item range `unit` that must be computed, logging damaged ones."""
        return [shard for shard in self.shards(unit) if self.needs(shard)]

    def pieces(self, unit: Unit) -> list[Piece]:
        """Return where the rows of the items of `unit` are, in their order.

        Raises:
            AttrbenchError: where one is missing or damaged.
        """
        pieces = [Piece(shard.first, shard.last, self.found(shard), 0) for shard in self.shards(unit)]
        for piece in pieces:
            self.sidecar_of(piece.shard)
        self._checked.keep()
        return pieces

    def path(self, unit: Unit) -> Path:
        """Return the path of the safetensors file in the cache of the shard with this item range."""
        return self.folder / f"items-{unit.first:08d}-{unit.last:08d}.safetensors"

    def found(self, unit: Unit) -> Path:
        """Return the path of a whole shard: that in the cache or else in a read-only one; the former if none is."""
        path = self.path(unit)
        return next((place for place in (path, *copies(path)) if self._state(place) == "done"), path)

    def state(self, unit: Unit) -> Literal["done", "missing", "damaged"]:
        """Return whether a shard is done, missing or damaged, as far as `CheckedFiles.is_whole` tells."""
        return self._state(self.found(unit))

    def _state(self, path: Path) -> Literal["done", "missing", "damaged"]:
        if path not in self._verified:
            shard = self._shard(path)
            seal = shard.seal()
            try:
                if seal is None or not self._checked.is_whole(path, seal):
                    return "damaged" if shard.is_there() else "missing"
                self._verified[path] = Sidecar.of(seal)
            except ValueError:
                return "damaged"
        return "done"

    def needs(self, unit: Unit) -> bool:
        """Return whether a shard must be computed because it is missing or damaged; damage is logged."""
        path = self.path(unit)
        if self.state(unit) == "done":
            return False
        for place in (path, *copies(path)):
            if self._state(place) == "damaged":
                self._report_damage(place, path)
        return True

    def _report_damage(self, place: Path, path: Path) -> None:
        """Log a warning about a damaged shard at `place`, whose rows are computed again for one at `path`."""
        if place.is_relative_to(self.folder):
            log.warning("shard %s is damaged (size or checksum differ): computing it again", place)
        else:
            log_damaged_copy("shard", place, path)

    def write(self, unit: Unit, arrays: Mapping[str, NDArray[Any]], timing: Timing) -> None:
        """Write a shard: name -> array with leading dimension `unit.last - unit.first`, except for shared arrays."""
        self._write(unit, self.path(unit), arrays, timing)

    def _write(
        self, unit: Unit, path: Path, arrays: Mapping[str, NDArray[Any]], timing: Timing, keys: Sequence[str] = ()
    ) -> Sidecar:
        data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        rows, seconds = unit.last - unit.first, sum(timing.item_seconds)
        lost = [(item - unit.first, timestep) for item, timestep in timing.nonfinite]
        sums = row_sums(arrays, range(rows)) if len(data) >= SUMMED and not timing.shared else []
        noted = asdict(timing) | {"nonfinite": lost, "keys": list(keys), "row_sums": sums}
        sidecar = Sidecar(bytes=0, sha256="", rows=rows, seconds=seconds, **noted)
        facts = sidecar.model_dump(exclude={"bytes", "sha256"})

        def build(part: Path) -> Facts:
            write_new(part, data)
            return facts

        return self._keep(path, build)

    def _keep(self, path: Path, build: Callable[[Path], Facts]) -> Sidecar:
        """Write a shard by `build` (see `Artifact.kept`), whose facts are those of a sidecar; return the sidecar."""
        with cache_errors(self.folder):
            if not (self.folder / FEATURE).exists():
                about = FeatureFile(of=self.of, kind=self.kind, summary=self.summary, description=self.description)
                about.write(self.folder / FEATURE)
        seal = self._shard(path).write(build)
        self._checked.note_written(path, seal)
        self._verified[path] = Sidecar.of(seal)
        return self._verified[path]

    def _shard(self, path: Path) -> Artifact:
        return Artifact(path, self.kind, self.summary)

    def sidecar(self, unit: Unit) -> Sidecar:
        """Return the metadata of a complete shard."""
        return self.sidecar_of(self.found(unit))

    def sidecar_of(self, path: Path) -> Sidecar:
        """Return the metadata of a complete shard, by its path."""
        if self._state(path) != "done":
            raise AttrbenchError(f"shard {path} is not there or damaged; run the same command again")
        return self._verified[path]

    def read(self, unit: Unit) -> dict[str, NDArray[Any]]:
        """Return the arrays of a complete shard, memory-mapped and read-only."""
        return self.arrays_of(self.found(unit))

    def arrays_of(self, path: Path, rows: NDArray[np.int64] | None = None) -> dict[str, NDArray[Any]]:
        """Return the arrays of a complete shard by its path, memory-mapped and read-only.

        Before a process uses a shard for the first time, all bytes are compared with its checksum; or, where a few rows
        are all that is wanted, these rows with theirs.

        Args:
            path: of the shard.
            rows: the rows that will be used; None for all.

        Raises:
            AttrbenchError: where it is missing.
            Damaged: where a checksum differs; from then on its rows count as missing.
        """
        sums = self.sidecar_of(path).row_sums
        self.touch()
        if rows is not None and sums and not self._checked.was_read(path):
            with suppress(*ODD_HEADER):
                arrays = map_safetensors(path)
                if row_sums(arrays, rows.tolist()) == [sums[row] for row in rows]:
                    return arrays
        elif self._is_read_whole(path):
            return map_safetensors(path)
        self._verified.pop(path)
        self._checked.forget(path)
        raise Damaged(f"shard {path} is damaged (a checksum differs); the same command computes it again")

    def _is_read_whole(self, path: Path) -> bool:
        """Return whether all of a shard's bytes match its seal; reads them once in each process."""
        if self._checked.was_read(path):
            return True
        seal = self._shard(path).seal()
        return seal is not None and self._checked.is_read_whole(path, seal)

    def touch(self) -> None:
        """Record that the feature was used now, once, as the modification time of `feature.json`.

        Not in read-only caches.
        """
        if not self._touched:
            self._touched = True
            with suppress(OSError):
                os.utime(self.folder / FEATURE)
