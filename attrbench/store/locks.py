"""File locks between processes that share a cache, so that no two of them compute equal data.

The operating system releases a lock when its process ends, so locks never become stale. On file systems without locks,
every process gets every lock: work may then be done twice, with equal results.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

LOCK = ".lock"


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


class Claims:
    """Locks on the numbered parts of one computation, so that no two processes compute the same part.

    Args:
        path: common beginning of the lock files' paths.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def claim(self, part: int, wait: bool) -> AbstractContextManager[bool]:
        """Lock one part of the computation against other processes; yields whether this process got it."""
        return lock(self._path.with_name(f"{self._path.name}-{part}{LOCK}"), wait)
