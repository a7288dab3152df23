"""Locks between processes that fill one cache, so that they share the work instead of doing it twice.

The system drops a lock when its process ends, however it ends, so there is nothing to go stale. Where files can't be
locked, everyone gets every lock: then work may be done twice, which wastes time but harms nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

LOCK = ".lock"


@contextmanager
def lock(path: Path, wait: bool, leave: bool = False) -> Iterator[bool]:
    """Lock the file `path`, and yield whether it is ours meanwhile; within one process it always is.

    Args:
        path: of the lock file, which is made, and removed again by whoever held it.
        wait: whether to go on only when another process has let it go.
        leave: whether the file stays.
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
    """The locks on the numbered pieces of one piece of work.

    Args:
        path: what the lock files' names begin with.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def claim(self, piece: int, wait: bool) -> AbstractContextManager[bool]:
        """Lock piece number `piece`; see `lock`."""
        return lock(self._path.with_name(f"{self._path.name}-{piece}{LOCK}"), wait)

    def close(self) -> None:
        """Do nothing: a lock file is open only while it is held."""
