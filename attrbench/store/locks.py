"""Claims: several processes that fill one cache share the work instead of doing it twice.

A claim is a lock on one byte of a file, held while a piece of work is computed. The system drops it when the process
ends, however it ends, so there is nothing to go stale. Where files can't be locked, everyone gets every claim: then
work may be done twice, which wastes time but harms nothing (attrbench.store.shards).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class Claims:
    """The claims on the pieces of one piece of work.

    Args:
        path: of the lock file, one a work; made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    @contextmanager
    def claim(self, piece: int, wait: bool) -> Iterator[bool]:
        """Whether piece number `piece` is ours meanwhile; with `wait`, not before another process has let it go."""
        ours = self._lock(piece, wait)
        try:
            yield ours
        finally:
            if ours and fcntl is not None and self._file is not None:
                with suppress(OSError):  # a file system without locks refuses this too
                    fcntl.lockf(self._file, fcntl.LOCK_UN, 1, piece)

    def _lock(self, piece: int, wait: bool) -> bool:
        if fcntl is None:
            return True
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, piece)
        except OSError as error:
            return error.errno not in (errno.EACCES, errno.EAGAIN)
        return True

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
