"""Atomic writes and checksums of files: a process killed while writing leaves the old or the new file, never half."""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes, sync: bool = True) -> None:
    """Write bytes to a file atomically: to a part file first, synced to disk, then renamed; creates the folder.

    Args:
        path: is replaced if it is there.
        data: the new content.
        sync: whether to wait for the disk; not for a file of which a crash of the machine may lose the last content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_path(path)
    try:
        write_new(part, data, sync)
        part.replace(path)
    except BaseException:  # an interruption too must leave nothing half behind
        with suppress(OSError):
            part.unlink()
        raise


def part_path(path: Path) -> Path:
    """Return a path beside `path` to write to before renaming: it ends in this process's id and a random number.

    Nobody can foresee it, so that no link can be planted there.
    """
    return path.with_name(f"{path.name}.part-{os.getpid()}-{secrets.token_hex(8)}")


def write_new(path: Path, data: bytes, sync: bool = True) -> None:
    """Write bytes to a file that must not exist, and sync it to disk if asked; a link at `path` is not followed.

    Raises:
        OSError: where there is something at the path, or it can't be written to.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def sha256_of(path: Path) -> str:
    """Return the sha256 checksum of a file's content as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
