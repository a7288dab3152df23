"""Shards: the rows of consecutive items in one safetensors file, an artifact (attrbench.store.artifacts).

A kill at any moment leaves shards that are done and shards that are missing, and running the same command again
computes the missing ones. Several processes may fill one store: equal work gives equal numbers, to rounding, and the
last rename wins.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import save

from attrbench.contracts.feature import Unit
from attrbench.errors import AttrbenchError
from attrbench.store.artifacts import Artifact, cache_errors
from attrbench.store.checksums import Checked, Seal
from attrbench.store.fingerprint import fingerprint

__all__ = ["FeatureStore", "Sidecar", "Timing", "Unit", "map_safetensors", "shard_items", "units"]

log = logging.getLogger(__name__)

SHARD_ITEMS = 64
SHARD_BYTES = 128 * 2**20
SHARD_SCHEMA = 4
FEATURE = "feature.json"


def units(count: int, size: int = SHARD_ITEMS) -> list[Unit]:
    """Cuts `count` items into shards; the cut depends on nothing else, so that any worker can fill any of them."""
    return [Unit(first, min(first + size, count)) for first in range(0, count, size)]


def shard_items(row_bytes: int, most: int = SHARD_ITEMS) -> int:
    """Items a shard: the largest power of two, up to `most`, that keeps it within 128 MiB; at least one.

    It follows from the feature alone, so that every process cuts in the same places.
    """
    fitting = max(1, min(most, SHARD_BYTES // max(1, row_bytes)))
    return 1 << (fitting.bit_length() - 1)


class Sidecar(BaseModel):
    """What is known of a shard.

    Attributes:
        bytes, sha256: of the file.
        rows: number of items.
        seconds: time of the pass that made it, shared by all features made in that pass.
        item_seconds: the same for each item.
        features_in_pass: how many features came out of that pass.
        nonfinite: (item, timestep) of NaN or infinite gradients, whose rows are zero.
        row_error: root mean square of the rows' relative error that their storage type causes.
        facts: what the method's transform of the queries said of itself, for products behind one.
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

    @classmethod
    def of(cls, seal: Seal) -> Self:
        """Return what the seal of a shard says.

        Raises:
            ValueError: where it is that of something else.
        """
        return cls.model_validate({"bytes": seal.bytes, "sha256": seal.sha256} | seal.facts)


class FeatureFile(Checked):
    """What `feature.json` says of the shards beside it.

    Attributes:
        kind, summary: for people, see `attrbench.store.checksums.Seal`.
        description: everything that decides the numbers; its fingerprint names the folder.
    """

    kind: str
    summary: str
    description: dict[str, Any]


@dataclass(frozen=True)
class Timing:
    """What the pass reports about a shard besides its numbers."""

    item_seconds: Sequence[float]
    features_in_pass: int
    nonfinite: Sequence[tuple[int, int | float]] = ()
    row_error: float = 0.0
    facts: Mapping[str, float] = field(default_factory=dict)


class FeatureStore:
    """The shards of one feature of one split of one task, in a folder named by their fingerprint.

    Args:
        root: the cache folder.
        description: everything that decides the numbers; written beside them as `feature.json`.
        items: items a shard, a power of two (`shard_items`).
        summary: one line for people that says which feature it is, such as "sketch v=4096, T=5".
        kind: what sort of feature it is, such as "gradient rows".
    """

    def __init__(
        self,
        root: Path,
        description: dict[str, object],
        items: int = SHARD_ITEMS,
        summary: str = "",
        kind: str = "",
    ) -> None:
        self.shard_items = items
        self.description = {"schema": SHARD_SCHEMA} | description
        self.summary = summary
        self.kind = kind or "feature"
        self.fingerprint = fingerprint(self.description)
        self.folder = root / "features" / self.fingerprint[:20]
        self._verified: dict[Unit, Sidecar] = {}
        self._touched = False

    def shards(self, unit: Unit) -> list[Unit]:
        """The shards within `unit`, which starts where a shard does."""
        cut = units(unit.last - unit.first, self.shard_items)
        return [Unit(unit.first + part.first, unit.first + part.last) for part in cut]

    def lacks(self, unit: Unit) -> bool:
        """Whether a shard within `unit` is missing or damaged."""
        return any(self.state(shard) != "done" for shard in self.shards(unit))

    def missing(self, unit: Unit) -> list[Unit]:
        """The shards within `unit` that must be computed; damaged ones are reported."""
        return [shard for shard in self.shards(unit) if self.needs(shard)]

    def path(self, unit: Unit) -> Path:
        """The file of a shard."""
        return self.folder / f"items-{unit.first:08d}-{unit.last:08d}.safetensors"

    def state(self, unit: Unit) -> Literal["done", "missing", "damaged"]:
        """Return whether a shard can be read; verifies its checksum once a process."""
        if unit not in self._verified:
            shard = self._shard(unit)
            seal = shard.whole()
            try:
                if seal is None:
                    return "damaged" if shard.is_there() else "missing"
                self._verified[unit] = Sidecar.of(seal)
            except ValueError:
                return "damaged"
        return "done"

    def needs(self, unit: Unit) -> bool:
        """Return whether a shard must be computed; a damaged one is reported."""
        state = self.state(unit)
        if state == "damaged":
            log.warning("shard %s is damaged (size or checksum differ): computing it again", self.path(unit))
        return state != "done"

    def write(self, unit: Unit, arrays: Mapping[str, NDArray[Any]], timing: Timing) -> None:
        """Commit a shard. Arrays have leading dimension `unit.last - unit.first`."""
        data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        rows, seconds = unit.last - unit.first, sum(timing.item_seconds)
        sidecar = Sidecar(bytes=0, sha256="", rows=rows, seconds=seconds, **asdict(timing))
        facts = sidecar.model_dump(exclude={"bytes", "sha256"})
        with cache_errors(self.folder):
            if not (self.folder / FEATURE).exists():
                about = FeatureFile(kind=self.kind, summary=self.summary, description=self.description)
                about.write(self.folder / FEATURE)
        self._verified[unit] = Sidecar.of(self._shard(unit).write_bytes(data, facts))

    def _shard(self, unit: Unit) -> Artifact:
        return Artifact(self.path(unit), self.kind, self.summary)

    def sidecar(self, unit: Unit) -> Sidecar:
        """The sidecar of a shard that is done."""
        if self.state(unit) != "done":
            raise AttrbenchError(f"shard {self.path(unit)} is not there or damaged; run the same command again")
        return self._verified[unit]

    def read(self, unit: Unit) -> dict[str, NDArray[Any]]:
        """The arrays of a shard that is done, memory-mapped and read-only."""
        self.sidecar(unit)
        self.touch()
        return map_safetensors(self.path(unit))

    def touch(self) -> None:
        """Sets the time of `feature.json`, once: when the rows were last used (attrbench.store.cache_index).

        A cache that can't be written to is no worse to read from.
        """
        if not self._touched:
            self._touched = True
            with suppress(OSError):
                os.utime(self.folder / FEATURE)


_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "U16": np.uint16, "I8": np.int8}


def map_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file as read-only memory maps."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    arrays: dict[str, NDArray[Any]] = {}
    for name, entry in header.items():
        if name != "__metadata__":
            offset = 8 + size + entry["data_offsets"][0]
            arrays[name] = np.memmap(path, _DTYPES[entry["dtype"]], "r", offset, tuple(entry["shape"]))
    return arrays
