"""What of a cache may go, and removing it.

Only files with names that the cache itself gives are touched, methods and tasks keep files of their own there; and
nothing that a run may have in hand.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import psutil

from attrbench.errors import AttrbenchError
from attrbench.store.cache_index import PART, Fault, File, Inventory, Piece, StoredFeature, look_at
from attrbench.store.locks import fcntl
from attrbench.store.shards import SHARD_SCHEMA

DAY = 86400.0
IDLE_SECONDS = 3600.0
"""What was written or read so lately may be in the hands of a run, and stays."""
PART_SECONDS = 60.0
"""The same for the part file of a process that is gone here: on another machine, or in a container, it may live."""
PART_AT_MOST_SECONDS = DAY
"""No file takes longer to write: the process that bears its number by then is another one."""
LAYOUT = ("features", "methods", "claims", "batch-sizes", "queries", "retrained", "images", "grams")


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
class Sweep:
    """What `sweep` found.

    Attributes:
        ready: what may go now.
        waiting: what may go later, because a run may be at it.
    """

    ready: list[Removal]
    waiting: list[Removal]


def sweep(found: Inventory, engine: int, older_than: float | None = None) -> Sweep:
    """What may go: leftovers, what is not whole by its size, and features that this version does not read.

    Args:
        found: the inventory.
        engine: this version's ENGINE_VERSION (attrbench.gradients.version).
        older_than: seconds after which unused features and index files may go too.

    Raises:
        AttrbenchError: where the folder holds things, but none that a cache does: it is another folder by mistake.
    """
    if (found.other or found.parts) and not any(_is_own_folder(found.root / name) for name in LAYOUT):
        raise AttrbenchError(
            f"{found.root} is no cache of attrbench, it has none of the folders {', '.join(LAYOUT)}: nothing was"
            " removed (name the cache with --cache)"
        )
    now = time.time()
    candidates = [
        *(_part(part) for part in found.parts if part.regular),
        *chain.from_iterable(_of_feature(feature, engine, now, older_than) for feature in found.features),
        *chain.from_iterable(
            _of_index(piece, now, older_than) for piece in (*found.indexes, *found.sums, *found.images)
        ),
        *(
            Removal(claim.path, "unused lock file", (claim,), lock=True)
            for claim in found.claims
            if claim.regular and _is_free(claim)
        ),
    ]
    ready = [removal for removal in candidates if removal.is_ready(now)]
    return Sweep(ready, [removal for removal in candidates if not removal.is_ready(now)])


def _is_own_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _part(part: File) -> Removal:
    match = PART.search(part.path.name)
    assert match is not None
    pid = int(match[1])
    if pid < 2**31 and psutil.pid_exists(pid):
        return Removal(part.path, "left over for more than a day", (part,), rest=PART_AT_MOST_SECONDS)
    return Removal(part.path, f"left over by process {pid}, which is gone", (part,), rest=PART_SECONDS)


def _of_feature(feature: StoredFeature, engine: int, now: float, older_than: float | None) -> list[Removal]:
    why = _outdated(feature, engine) or _unused(feature.last_used, now, older_than)
    files = tuple(file for file in feature.files if file.regular)
    if why is not None and files:
        return [Removal(feature.folder, why, files)]
    return list(chain.from_iterable(map(_broken, feature.pieces)))


def _of_index(piece: Piece, now: float, older_than: float | None) -> list[Removal]:
    why = _unused(piece.last_used, now, older_than)
    if why is not None and piece.regular:
        return [Removal(piece.path, why, piece.files)]
    return _broken(piece)


def _broken(piece: Piece) -> list[Removal]:
    fault = piece.fault()
    return [Removal(fault.path, fault.what, piece.files)] if fault is not None and fault.broken else []


def _outdated(feature: StoredFeature, engine: int) -> str | None:
    """Why this version does not read the feature. What does not say its versions is not judged."""
    for name, ours in (("schema", SHARD_SCHEMA), ("engine", engine)):
        theirs = feature.description.get(name, ours)
        if theirs != ours:
            return f"of {name} version {theirs}, this attrbench has {ours}"
    return None


def _unused(last_used: float, now: float, older_than: float | None) -> str | None:
    idle = now - last_used
    return f"not used for {idle / DAY:.0f} days" if older_than is not None and idle > older_than else None


def _is_free(claim: File) -> bool:
    with _lock(claim.path) as ours:
        return ours


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Whether nobody holds any piece of a lock file; nobody else can take one meanwhile.

    Must not be asked of a file that this very process has claims on: the system would drop them.
    """
    if fcntl is None:
        yield False
        return
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        yield _try_lock(file)
    finally:
        os.close(file)


def _try_lock(file: int) -> bool:
    assert fcntl is not None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove(root: Path, removal: Removal) -> Fault | None:
    """Removes it, if it still is as it was found; otherwise says why it is still there.

    Args:
        root: the cache folder.
        removal: what `sweep` found ready.
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
    with suppress(OSError):  # a feature's folder goes once nothing is left in it
        if _is_own_folder(removal.path):
            removal.path.rmdir()
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
    with _lock(path) as ours:
        if not ours:
            raise OSError(errno.EAGAIN, "a run holds it")
        path.unlink()
