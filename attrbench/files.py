"""Atomic writes and checksums of files: a process killed while writing leaves the old or the new file, never half."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write bytes to a file atomically: to a part file first, synced to disk, then renamed; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:  # an interruption too must leave nothing half behind
        with suppress(OSError):
            part.unlink()
        raise


def sha256_of(path: Path) -> str:
    """Return the sha256 checksum of a file's content as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
