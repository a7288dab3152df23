"""Locks and leases between processes that share a cache, so that no two of them compute equal data.

The operating system releases a lock when its process ends, so locks never become stale. On file systems without locks,
every process gets every lock: work may then be done twice, with equal results. Network file systems may lack locks, or
have them within a machine alone. Workers on several machines therefore take a lease, too: a file that its holder
touches again and again, and that others may take over once it has not been touched for `LEASE_SECONDS`.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

LOCK = ".lock"
LEASE = ".lease"
LEASE_SECONDS = 60.0
"""Seconds without a sign of its holder after which a lease is over; the holder gives three in that time."""


@contextmanager
def lock(path: Path, wait: bool, leave: bool = False) -> Iterator[bool]:
    """Hold a lock file inside the `with` block, and yield whether this process got the lock.

    Args:
        path: path of the lock file, which is created, and removed on release.
        wait: whether to wait until another process has released the lock; otherwise False is yielded at once.
        leave: whether the lock file is left in place on release.
    """
    holder = FileLock(path, is_singleton=True)
    try:
        yield _acquire(holder, path, wait)
    finally:
        if holder.is_locked:
            if (
                holder.lock_counter == 1 and not leave
            ):  # whoever waits for a file that is gone makes a new one (filelock looks)
                with suppress(OSError):
                    path.unlink()
            holder.release()


def _acquire(holder: BaseFileLock, path: Path, wait: bool) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        holder.acquire(timeout=-1 if wait else 0)
    except Timeout:
        return False
    except OSError:  # files can't be locked here
        return True
    return True


@contextmanager
def lease(path: Path, wait: bool) -> Iterator[bool]:
    """Hold a lease inside the `with` block, and yield whether this process got it, as `lock`, on any file system.

    Two may hold one where the clock or the disk of the first stood still for longer than the lease: work is done twice.
    """
    holder = SoftFileLease(path, lease_duration=LEASE_SECONDS, is_singleton=True)
    try:
        yield _acquire(holder, path, wait)
    finally:
        if holder.is_locked:
            holder.release()


def is_free(path: Path) -> bool:
    """Return whether no process holds a lock or a lease, so that its file may be removed; not for this process's own.

    A lease counts as held for as long again as it takes others to see that it is over. One that was let go meanwhile
    has no file to remove.
    """
    if path.name.endswith(LEASE):
        try:
            return time.time() - path.stat().st_mtime > 2 * LEASE_SECONDS
        except FileNotFoundError:
            return False
    with lock(path, wait=False, leave=True) as ours:
        return ours


def remove_free(path: Path) -> None:
    """Remove the file of a lock or a lease that no process holds.

    Raises:
        OSError: where one does.
    """
    if path.name.endswith(LEASE):
        if free := is_free(path):
            path.unlink()
    else:
        with lock(path, wait=False) as free:  # which removes the file
            pass
    if not free:
        raise OSError(errno.EAGAIN, "a run holds it")


@contextmanager
def claim(path: Path, wait: bool, leases: bool) -> Iterator[bool]:
    """Lock what lies or will lie at a path inside the `with` block, and yield whether this process got the lock.

    Args:
        path: the data; the files of the lock and the lease stand beside it.
        wait: whether to wait until another process has let go; otherwise False is yielded at once.
        leases: whether it is leased, too, since processes of several machines share it.
    """
    with lock(path.with_name(path.name + LOCK), wait) as ours:
        if not (ours and leases):
            yield ours
            return
        with lease(path.with_name(path.name + LEASE), wait) as leased:
            yield leased


class Claims:
    """Locks on the numbered parts of one computation, so that no two processes compute the same part.

    Args:
        path: common beginning of the lock files' paths.
        leases: whether parts are leased, too, since processes of several machines share them.
    """

    def __init__(self, path: Path, leases: bool = False) -> None:
        self._path, self._leases = path, leases

    def claim(self, part: int, wait: bool) -> AbstractContextManager[bool]:
        """Lock one part of the computation against other processes; yields whether this process got it."""
        return claim(self._path.with_name(f"{self._path.name}-{part}"), wait, self._leases)
