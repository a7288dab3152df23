"""What of a cache may go, and removing it.

Only what a seal, a name or a description tells to be the cache's own is touched, and nothing that a run may have in
hand.
"""

from __future__ import annotations

import errno
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import psutil

from attrbench.errors import AttrbenchError
from attrbench.store.cache_index import PART, Inventory
from attrbench.store.locks import lock
from attrbench.store.pieces import Fault, File, Group, Piece, look_at
from attrbench.store.shards import SHARD_SCHEMA

DAY = 86400.0
IDLE_SECONDS = 3600.0
"""What was written or read so lately may be in the hands of a run, and stays."""
PART_SECONDS = 60.0
"""The same for the part file of a process that is gone here: on another machine, or in a container, it may live."""
PART_AT_MOST_SECONDS = DAY
"""No file takes longer to write: the process that bears its number by then is another one."""


@dataclass(frozen=True)
class Removal:
    """Something that may go.

    Attributes:
        path: of the file or folder.
        why: the reason, in words.
        files: what is removed, in this order; then the folder, where nothing else is in it.
        rest: seconds that it must have been left alone.
        lock: whether it is a lock file, which nobody may hold meanwhile.
    """

    path: Path
    why: str
    files: tuple[File, ...]
    rest: float = IDLE_SECONDS
    lock: bool = False

    @property
    def bytes(self) -> int:
        """What it takes."""
        return sum(file.bytes for file in self.files)

    def is_ready(self, now: float) -> bool:
        """Whether it was left alone long enough."""
        return all(now - file.modified > self.rest for file in self.files)


@dataclass(frozen=True)
class Garbage:
    """What `find_garbage` found.

    Attributes:
        ready: what may go now.
        waiting: what may go later, because a run may be at it.
    """

    ready: list[Removal]
    waiting: list[Removal]


def find_garbage(found: Inventory, engine: int, older_than: float | None = None) -> Garbage:
    """Find what may go: leftovers, what is not whole by its size, and what this version does not read.

    Args:
        found: the inventory.
        engine: this version's ENGINE_VERSION (attrbench.gradients.version).
        older_than: seconds after which unused artifacts may go too.

    Raises:
        AttrbenchError: where the folder holds things, but none that a cache does: it is another folder by mistake.
    """
    if (found.other or found.parts) and not (found.groups or found.earlier):
        raise AttrbenchError(
            f"{found.root} is no cache of attrbench, nothing in it was kept by attrbench: nothing was removed (name"
            " the cache with --cache)"
        )
    now = time.time()
    candidates = [
        *(_part(part) for part in found.parts if part.regular),
        *(Removal(old.path, "of an earlier version of attrbench", old.files) for old in found.earlier),
        *chain.from_iterable(_of_group(group, engine, now, older_than) for group in found.groups),
        *(Removal(file.path, "unused lock file", (file,), lock=True) for file in found.locks if _is_free(file)),
    ]
    ready = [removal for removal in candidates if removal.is_ready(now)]
    return Garbage(ready, [removal for removal in candidates if not removal.is_ready(now)])


def _part(part: Piece) -> Removal:
    match = PART.search(part.path.name)
    assert match is not None
    pid = int(match[1])
    if pid < 2**31 and psutil.pid_exists(pid):
        return Removal(part.path, "left over for more than a day", part.files, rest=PART_AT_MOST_SECONDS)
    return Removal(part.path, f"left over by process {pid}, which is gone", part.files, rest=PART_SECONDS)


def _of_group(group: Group, engine: int, now: float, older_than: float | None) -> list[Removal]:
    if group.about is None:
        return list(chain.from_iterable(_of_piece(piece, now, older_than) for piece in group.pieces))
    why = _outdated(group, engine) or _unused(group.last_used, now, older_than)
    files = tuple(file for file in group.files if file.regular)
    return (
        [Removal(group.folder, why, files)] if why and files else list(chain.from_iterable(map(_broken, group.pieces)))
    )


def _of_piece(piece: Piece, now: float, older_than: float | None) -> list[Removal]:
    why = _unused(piece.last_used, now, older_than)
    return [Removal(piece.path, why, piece.files)] if why and piece.regular else _broken(piece)


def _broken(piece: Piece) -> list[Removal]:
    fault = piece.fault()
    return [Removal(fault.path, fault.what, piece.files)] if fault is not None and fault.broken else []


def _outdated(group: Group, engine: int) -> str | None:
    """Return why this version does not read the feature. What does not say its versions is not judged."""
    for name, ours in (("schema", SHARD_SCHEMA), ("engine", engine)):
        theirs = group.description.get(name, ours)
        if theirs != ours:
            return f"of {name} version {theirs}, this attrbench has {ours}"
    return None


def _unused(last_used: float, now: float, older_than: float | None) -> str | None:
    idle = now - last_used
    return f"not used for {idle / DAY:.0f} days" if older_than is not None and idle > older_than else None


def _is_free(file: File) -> bool:
    """Return whether no other process holds a lock file; must not be asked of what this very process holds."""
    with lock(file.path, wait=False, leave=True) as ours:
        return ours


def remove(root: Path, removal: Removal) -> Fault | None:
    """Remove it, if it still is as it was found; otherwise return why it is still there.

    Args:
        root: the cache folder.
        removal: what `find_garbage` found ready.
    """
    for file in removal.files:
        if not _is_as_found(root, file):
            return Fault(file.path, "has changed meanwhile and stays", broken=False)
    for file in removal.files:
        try:
            _unlink(file.path, removal.lock)
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


def _is_as_found(root: Path, file: File) -> bool:
    try:
        inside = file.path.parent.resolve().is_relative_to(root.resolve())
        return inside and look_at(file.path) == file
    except OSError:
        return False


def _unlink(path: Path, locked: bool) -> None:
    if not locked:
        path.unlink()
        return
    with lock(path, wait=False) as ours:  # which removes the file
        if not ours:
            raise OSError(errno.EAGAIN, "a run holds it")
