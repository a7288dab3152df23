"""Removal of garbage from a cache: leftovers, broken, outdated and long unused artifacts.

Only files that a seal, a name or a description identifies as the cache's own are removed, and none that a run may be
using.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import psutil

from attrbench.errors import AttrbenchError
from attrbench.store.cache_entries import CacheEntry, Fault, File, Group, file_at
from attrbench.store.cache_index import PART, CacheIndex
from attrbench.store.locks import is_free, remove_free
from attrbench.store.shards import SHARD_SCHEMA

DAY = 86400.0
IDLE_SECONDS = 3600.0
"""Data written or read within this time may be in use by a run, and stays."""
PART_SECONDS = 60.0
"""This time for part files of a process that does not exist here; it may run on another machine or in a container."""
PART_AT_MOST_SECONDS = DAY
"""No file takes longer to write: after this time, a process with that id is a different one."""


@dataclass(frozen=True)
class Removal:
    """A set of cache files that may be removed, with the reason.

    Attributes:
        path: the file or folder.
        why: the reason, in words.
        files: the files to remove, in this order; then empty folders.
        rest: seconds since the last modification after which removal is allowed.
        lock: whether it is a lock file, which is removed only while no process holds it.
    """

    path: Path
    why: str
    files: tuple[File, ...]
    rest: float = IDLE_SECONDS
    lock: bool = False

    @property
    def bytes(self) -> int:
        """Return the total size in bytes of the files to remove."""
        return sum(file.bytes for file in self.files)

    def is_ready(self, now: float) -> bool:
        """Return whether at time `now` all files were unmodified for long enough that no run is using them."""
        return all(now - file.modified > self.rest for file in self.files)


@dataclass(frozen=True)
class Garbage:
    """The garbage found in a cache: files to remove now, and files to remove once no run can be using them.

    Attributes:
        ready: what may be removed now.
        waiting: what may be removed later, because a run may be using it.
    """

    ready: list[Removal]
    waiting: list[Removal]


def find_garbage(index: CacheIndex, engine: int, older_than: float | None = None) -> Garbage:
    """Return a cache's garbage: leftovers, artifacts of the wrong size, and data of other versions.

    Args:
        index: index of the cache.
        engine: this version's ENGINE_VERSION (attrbench.gradients.version).
        older_than: seconds after which unused artifacts are garbage too; None for never.

    Raises:
        AttrbenchError: where the folder is not a cache: it contains files, but no artifact.
    """
    if (index.other or index.parts) and not (index.groups or index.earlier):
        raise AttrbenchError(
            f"{index.root} is no cache of attrbench, nothing in it was kept by attrbench: nothing was removed (name"
            " the cache with --cache)"
        )
    now = time.time()
    candidates = [
        *(_part(part) for part in index.parts if part.regular),
        *(Removal(old.path, "of an earlier version of attrbench", old.files) for old in index.earlier),
        *chain.from_iterable(_of_group(group, engine, now, older_than) for group in index.groups),
        *(Removal(file.path, "unused lock file", (file,), lock=True) for file in index.locks if is_free(file.path)),
    ]
    ready = [removal for removal in candidates if removal.is_ready(now)]
    return Garbage(ready, [removal for removal in candidates if not removal.is_ready(now)])


def _part(part: CacheEntry) -> Removal:
    match = PART.search(part.path.name)
    assert match is not None
    pid = int(match[1])
    if pid < 2**31 and psutil.pid_exists(pid):
        return Removal(part.path, "left over for more than a day", part.files, rest=PART_AT_MOST_SECONDS)
    return Removal(part.path, f"left over by process {pid}, which is gone", part.files, rest=PART_SECONDS)


def _of_group(group: Group, engine: int, now: float, older_than: float | None) -> list[Removal]:
    if group.about is None:
        return list(chain.from_iterable(_of_piece(entry, now, older_than) for entry in group.entries))
    why = _outdated(group, engine) or _unused(group.last_used, now, older_than)
    files = tuple(file for file in group.files if file.regular)
    return (
        [Removal(group.folder, why, files)] if why and files else list(chain.from_iterable(map(_broken, group.entries)))
    )


def _of_piece(entry: CacheEntry, now: float, older_than: float | None) -> list[Removal]:
    why = _unused(entry.last_used, now, older_than)
    return [Removal(entry.path, why, entry.files)] if why and entry.regular else _broken(entry)


def _broken(entry: CacheEntry) -> list[Removal]:
    fault = entry.fault()
    return [Removal(fault.path, fault.what, entry.files)] if fault is not None and fault.broken else []


def _outdated(group: Group, engine: int) -> str | None:
    """Return why this version can't read a cached feature; None if it can or its version is unknown."""
    for name, ours in (("schema", SHARD_SCHEMA), ("engine", engine)):
        theirs = group.description.get(name, ours)
        if theirs != ours:
            return f"of {name} version {theirs}, this attrbench has {ours}"
    return None


def _unused(last_used: float, now: float, older_than: float | None) -> str | None:
    idle = now - last_used
    return f"not used for {idle / DAY:.0f} days" if older_than is not None and idle > older_than else None


def remove(root: Path, removal: Removal) -> Fault | None:
    """Remove garbage files, unless they changed since the cache was scanned; return a fault if they stay.

    Args:
        root: the cache folder.
        removal: a removal that `find_garbage` returned as ready.
    """
    for file in removal.files:
        if not _is_unchanged(root, file):
            return Fault(file.path, "has changed meanwhile and stays", broken=False)
    for file in removal.files:
        try:
            remove_free(file.path) if removal.lock else file.path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            return Fault(file.path, f"cannot be removed: {error.strerror}", broken=False)
    inside = {folder for file in removal.files for folder in file.path.parents if folder.is_relative_to(removal.path)}
    for folder in sorted(inside, reverse=True):  # a folder goes once nothing is left in it, those within it first
        with suppress(OSError):
            if folder.is_dir() and not folder.is_symlink():
                folder.rmdir()
    return None


def _is_unchanged(root: Path, file: File) -> bool:
    try:
        inside = file.path.parent.resolve().is_relative_to(root.resolve())
        return inside and file_at(file.path) == file
    except OSError:
        return False
