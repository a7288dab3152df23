"""Faults of single file operations: an error, or a kill, at the n-th open, read, write, fsync, rename and so on.

The operations of Python code on files below a folder are seen in two ways: audit events tell of opens, renames,
removals, new folders and times before they happen; reads, writes and fsyncs go through files that `watching` puts in
the place of the real ones. What libraries in C or Rust read and write themselves is not seen.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KILL = -1
"""Instead of an error code: SIGKILL."""
NEED_ROOM = ("create", "write", "fsync", "mkdir", "rename")
AUDITED = {
    "os.rename": "rename",
    "os.remove": "remove",
    "os.mkdir": "mkdir",
    "os.rmdir": "rmdir",
    "os.utime": "utime",
    "os.truncate": "truncate",
}

_open, _fsync = io.open, os.fsync


@dataclass(frozen=True)
class Fault:
    """What happens to an operation: an error code or `KILL`; with `lasting`, also to all after it that need room."""

    number: int
    code: int
    lasting: bool = False

    def hits(self, number: int, kind: str) -> bool:
        """Whether the operation with this number, which counts from 0, goes wrong."""
        return number == self.number or (self.lasting and number > self.number and kind in NEED_ROOM)


@dataclass
class Operations:
    """The operations that were seen below a folder, in order, and the fault of one of them."""

    folder: Path
    fault: Fault | None = None
    kinds: tuple[str, ...] | None = None
    seen: list[tuple[str, str]] = field(default_factory=list)

    def begin(self, kind: str, path: str, half: Callable[[], object] = lambda: None) -> None:
        """Count an operation, and let it go wrong if its turn has come; a write gets as far as `half` before that."""
        if self.kinds is not None and kind not in self.kinds:
            return
        number = len(self.seen)
        self.seen.append((kind, path))
        if self.fault is not None and self.fault.hits(number, kind):
            half()
            if self.fault.code == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(self.fault.code, os.strerror(self.fault.code), path)

    def covers(self, path: object, folder_fd: object = -1) -> str | None:
        """Return the path of a file that lies below the folder; None for another one."""
        if isinstance(path, int):
            path = _path_of(path)
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        text = os.fsdecode(path)
        if isinstance(folder_fd, int) and folder_fd >= 0:
            text = os.path.join(_path_of(folder_fd) or "", text)  # noqa: PTH118
        text = os.path.abspath(text)  # noqa: PTH100
        return text if text.startswith(f"{self.folder}{os.sep}") else None


def _path_of(descriptor: int) -> str | None:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
    except OSError:
        return None


_watched: Operations | None = None
_hooked = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Have an operation begin of which Python tells before it happens."""
    if _watched is None or (event != "open" and event not in AUDITED):
        return
    if event == "open":
        path, _, flags = arguments
        kind = "create" if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else "open"
        found = None if isinstance(path, int) else _watched.covers(path)
    else:
        kind, folder_fd = AUDITED[event], arguments[-1]
        found = _watched.covers(arguments[0], folder_fd if kind in ("remove", "mkdir", "rmdir") else -1)
    if found is not None:
        _watched.begin(kind, found)


class _File(io.FileIO):
    """A file whose reads and writes are counted."""

    watched_path = ""

    def _begin(self, kind: str, half: Callable[[], object] = lambda: None) -> None:
        if _watched is not None:
            _watched.begin(kind, self.watched_path, half)

    def write(self, data: Any) -> int | None:
        bytes_ = memoryview(data).cast("B")
        self._begin("write", lambda: super(_File, self).write(bytes_[: len(bytes_) // 2]))
        return super().write(bytes_)

    def readinto(self, buffer: Any) -> int | None:
        self._begin("read")
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self._begin("read")
        return super().readall()


def _watching_open(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    """Open a file like `open`, so that its reads and writes are counted if it lies below the watched folder."""
    path = None if _watched is None else _watched.covers(file)
    if path is None:
        return _open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    raw = _File(file, mode.replace("b", "").replace("t", ""), closefd, opener)
    raw.watched_path = path
    if buffering == 0:
        return raw
    kind = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
    buffer = kind(raw)
    return buffer if "b" in mode else io.TextIOWrapper(buffer, io.text_encoding(encoding), errors, newline)


def _watching_fsync(descriptor: Any) -> None:
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    path = None if _watched is None else _watched.covers(number)
    if path is not None and _watched is not None:
        _watched.begin("fsync", path)
    _fsync(descriptor)


@contextmanager
def watching(folder: Path, fault: Fault | None = None, kinds: tuple[str, ...] | None = None) -> Iterator[Operations]:
    """Count the operations on files below a folder in the `with` block, and let one of them go wrong.

    Args:
        folder: what lies elsewhere is not seen.
        fault: what happens at which operation; None for nothing.
        kinds: count only these, such as `fsync`.
    """
    global _watched, _hooked
    if not _hooked:
        sys.addaudithook(_audit)  # can't be removed; it does nothing outside of the block
        _hooked = True
    found = Operations(folder.resolve(), fault, kinds)
    _watched = found
    io.open = builtins.open = _watching_open  # type: ignore[assignment]
    os.fsync = _watching_fsync
    try:
        yield found
    finally:
        _watched = None
        io.open = builtins.open = _open
        os.fsync = _fsync


def disk_full(number: int) -> Fault:
    """Return the fault of a disk that is full from an operation on, the first counts 0."""
    return Fault(number, errno.ENOSPC, lasting=True)
