"""Store rows that depend on their own item alone, and find them by the item's content in any shard."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from attrbench.contracts.computation import Unit
from attrbench.errors import AttrbenchError
from attrbench.store.checksums import SEAL, Seal, seal_path
from attrbench.store.fingerprint import fingerprint
from attrbench.store.read_only import copies
from attrbench.store.shards import SHARD_ITEMS, FeatureStore, Piece, Sidecar, Timing

log = logging.getLogger(__name__)

PREFIX = "rows-"
"""How the names of shards begin whose rows are found by key."""
_SEAL = re.compile(re.escape(PREFIX) + ".*" + re.escape(SEAL))


class ItemStore(FeatureStore):
    """The rows of one feature, one for each item, found by the item's key whatever set, order or split it stands in.

    A shard says in its seal which items it holds. So an item that is added to a set costs its own row, one that is
    removed costs nothing, and another task with the same image and model finds the rows that are there.

    Args:
        root: the cache folder.
        description: everything that decides the numbers besides the item.
        keys: key of each item of the split (`attrbench.contracts.task.Items.keys`), distinct.
        items: number of items in a shard, at most.
        summary: one line that describes the feature, such as "sketch v=4096, T=5".
        kind: kind of feature, such as "gradient rows".
        of: task and data split, for `attrbench cache ls`.
    """

    def __init__(
        self,
        root: Path,
        description: dict[str, object],
        keys: Sequence[str],
        items: int = SHARD_ITEMS,
        summary: str = "",
        kind: str = "",
        of: str = "",
    ) -> None:
        super().__init__(root, description, items, summary, kind, of)
        self.keys = keys
        self.fingerprint = fingerprint([self.fingerprint, list(keys)])
        self._rows: dict[str, tuple[Path, int]] = {}
        self._read_seals: set[str] = set()
        self._damaged: dict[Path, frozenset[str]] = {}
        self._passed_over: set[Path] = set()
        self._listed_at: dict[Path, int | None] = {}

    def path(self, unit: Unit) -> Path:
        """Return the path in the cache of the shard that would hold exactly these items, in their order."""
        return self.folder / f"{PREFIX}{fingerprint(list(self.keys[unit.first : unit.last]))[:20]}.safetensors"

    def lacking(self, unit: Unit) -> list[Unit]:
        """Return the ranges of items within `unit` that have no row, each small enough for a shard."""
        self._look(unit)
        ranges: list[Unit] = []
        for item in range(unit.first, unit.last):
            if self.keys[item] in self._rows:
                continue
            last = ranges[-1] if ranges else None
            if last is not None and last.last == item and (item - unit.first) % self.shard_items:
                ranges[-1] = Unit(last.first, item + 1)
            else:
                ranges.append(Unit(item, item + 1))
        return ranges

    def missing(self, unit: Unit) -> list[Unit]:
        """Return the ranges of items within `unit` that have no row; damaged shards that held one are logged."""
        ranges = self.lacking(unit)
        for path, keys in list(self._damaged.items()):
            names = (self.path(shard).name for shard in self.shards(unit))
            if path.name in names or keys.intersection(self.keys[unit.first : unit.last]):
                self._report_damage(path, self.path(unit))
                del self._damaged[path]
        return ranges

    def pieces(self, unit: Unit) -> list[Piece]:
        """Return where the rows of the items of `unit` are, in their order; see `FeatureStore.pieces`."""
        missing = self.lacking(unit)
        if missing:
            self._look_again()  # another process may have written what the last look was too early for
            missing = self.lacking(unit)
        if missing:
            raise AttrbenchError(
                f"the row of item {missing[0].first} is not in {self.folder}, or damaged; run the same command again"
            )
        pieces: list[Piece] = []
        for item in range(unit.first, unit.last):
            path, row = self._rows[self.keys[item]]
            last = pieces[-1] if pieces else None
            if last is not None and last.shard == path and last.row + item - last.first == row:
                pieces[-1] = last._replace(last=item + 1)
            else:
                pieces.append(Piece(item, item + 1, path, row))
        self._checked.keep()
        return pieces

    def write(self, unit: Unit, arrays: Mapping[str, NDArray[Any]], timing: Timing) -> None:
        """Write a shard with the rows of the items of `unit`; see `FeatureStore.write`."""
        path = self.path(unit)
        self._passed_over.discard(path)
        is_listed = _changed(self.folder) == self._listed_at.get(self.folder)
        self._note(path, self._write(unit, path, arrays, timing, self.keys[unit.first : unit.last]))
        if is_listed:  # what changed the folder since is this shard, which is noted
            self._listed_at[self.folder] = _changed(self.folder)

    def _look(self, unit: Unit) -> None:
        """Find the rows of the items: under the names of whole shards in this order first, then among all shards."""
        for shard in self.shards(unit):
            path = self.path(shard)
            for place in (path, *copies(path)):
                if not self._has(shard):
                    self._read_seal(place)
        if not self._has(unit):
            self._look_everywhere()
        for path in {self._rows[key][0] for key in self.keys[unit.first : unit.last] if key in self._rows}:
            if (state := self._state(path)) != "done":
                self._forget(path, state == "damaged")

    def _has(self, unit: Unit) -> bool:
        return all(key in self._rows for key in self.keys[unit.first : unit.last])

    def _look_everywhere(self) -> None:
        """Read the seals that have not been read of all shards in the cache, then in the read-only caches.

        A folder that has not changed since, but by this store's own writing, is passed over.
        """
        for folder in (self.folder, *copies(self.folder)):
            for path in self._unread(folder):
                self._read_seal(path)

    def _unread(self, folder: Path) -> list[Path]:
        """Return the shards in a folder whose seals have not been read, in the order of their names."""
        changed = _changed(folder)
        if changed is None or changed == self._listed_at.get(folder):
            return []
        self._listed_at[folder] = changed
        with suppress(OSError), os.scandir(folder) as entries:
            seals = {entry.path.removesuffix(SEAL) for entry in entries if _SEAL.fullmatch(entry.name)}
            return [Path(path) for path in sorted(seals - self._read_seals)]
        return []

    def _read_seal(self, path: Path) -> None:
        """Note which items a shard holds, if it is there; its data is checked when a row of it is wanted."""
        if str(path) in self._read_seals or not path.exists():
            return
        try:
            self._note(path, Sidecar.of(Seal.read(seal_path(path))))
        except OSError:
            pass  # a shard without a seal is none
        except ValueError:
            self._read_seals.add(str(path))
            self._damaged[path] = frozenset()

    def _note(self, path: Path, sidecar: Sidecar) -> None:
        self._read_seals.add(str(path))
        for row, key in enumerate(sidecar.keys):
            self._rows.setdefault(key, (path, row))

    def _forget(self, path: Path, is_damaged: bool) -> None:
        """Take a shard that is damaged or gone for missing; its rows are looked for in other shards."""
        if is_damaged:
            self._damaged[path] = frozenset(key for key, found in self._rows.items() if found[0] == path)
        self._rows = {key: found for key, found in self._rows.items() if found[0] != path}
        self._passed_over.add(path)
        self._look_again(self._passed_over)
        self._look_everywhere()

    def _look_again(self, but: Iterable[Path] = ()) -> None:
        """Forget which seals have been read, except those of some shards, so that the next look reads them."""
        self._read_seals = set(map(str, but))
        self._listed_at.clear()


def _changed(folder: Path) -> int | None:
    """Return when a file was added to a folder or removed, in nanoseconds; None if there is no such folder."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return None
