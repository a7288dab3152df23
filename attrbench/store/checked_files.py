"""The states of shards when they were last read in full, so that opening a store need not read all of it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from attrbench.errors import AttrbenchError
from attrbench.store.artifacts import Artifact
from attrbench.store.checksums import Seal

State = list[Any]
"""[sha256, size, mtime_ns, ctime_ns, inode] of a file."""
SPARED = 64 * 2**20
"""Bytes of shards from which on their states are kept; fewer are read at each opening."""


class CheckedFiles:
    """The shards of a folder of which all bytes were compared with their checksum, in this process or an earlier one.

    Opening a store takes a shard for whole that still has the size, times and inode of its last full check
    (`is_whole`). Whatever writes to a file changes these; a copy has others, and is read in full once. A byte that
    changes on the disk without a trace is found all the same before it changes a result: each process compares a shard
    in full before it uses rows of it (`is_read_whole`).

    Args:
        folder: the folder of the shards, `CACHE/features/FINGERPRINT`.
    """

    def __init__(self, folder: Path) -> None:
        path = folder.parent.parent / "checked" / f"{folder.name}.json"
        self._kept = Artifact(path, "checked files", "states of shards when they were last read in full")
        self._new: dict[str, State] = {}
        self._read: set[Path] = set()

    @cached_property
    def _earlier(self) -> dict[str, State]:
        """File name -> state of the shards that earlier processes found whole."""
        states = self._load()
        if states is None:
            self._kept.report_damage("reading the shards in full")
        return states or {}

    def _load(self) -> dict[str, State] | None:
        found = self._kept.found()
        if found is None:
            return None
        self._kept.touch()
        states: dict[str, State] = json.loads(found.path.read_bytes())
        return states

    def is_whole(self, path: Path, seal: Seal) -> bool:
        """Return whether a shard is what its seal says; it is read unless it is in the state of its last full check."""
        try:
            known = self._earlier.get(path.name) == _state(path, seal)
        except OSError:
            return False
        return known or self.is_read_whole(path, seal)

    def was_read(self, path: Path) -> bool:
        """Return whether this process has compared all bytes of a shard with its checksum, or has written it."""
        return path in self._read

    def is_read_whole(self, path: Path, seal: Seal) -> bool:
        """Return whether a shard is what its seal says; all of it is read."""
        try:
            state = _state(path, seal)
            if not seal.fits(path):
                return False
        except OSError:
            return False
        self._note(path, state)
        return True

    def note_written(self, path: Path, seal: Seal) -> None:
        """Note a shard that this process has just written."""
        with suppress(OSError):
            self._note(path, _state(path, seal))

    def _note(self, path: Path, state: State) -> None:
        self._read.add(path)
        if self._earlier.get(path.name) != state:
            self._new[path.name] = state

    def forget(self, path: Path) -> None:
        """Forget a shard that was found damaged, so that no process takes it for whole by its state."""
        self._read.discard(path)
        self._new.pop(path.name, None)
        if self._earlier.pop(path.name, None) is not None:
            self._change(lambda states: states.pop(path.name, None))

    def keep(self, least: int = SPARED) -> None:
        """Keep the states of the shards that this process found whole for later ones, if it's so many bytes or more."""
        if self._new and sum(size for _, size, *_ in (self._earlier | self._new).values()) >= least:
            self._change(lambda states: states.update(self._new))
            self._earlier.update(self._new)
            self._new.clear()

    def _change(self, change: Callable[[dict[str, State]], object]) -> None:
        """Change the kept states; where they can't be written the next opening reads more, and that is all."""
        with suppress(AttrbenchError), self._kept.lock():
            states = self._load() or {}  # another process may have added some
            change(states)
            self._kept.write_bytes(json.dumps(states, separators=(",", ":")).encode())


def _state(path: Path, seal: Seal) -> State:
    """Return the checksum that a file's seal gives, and what the file system tells of its size, times and place.

    Raises:
        OSError: where there is no file, or its status can't be read.
    """
    status = path.stat()
    return [seal.sha256, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
