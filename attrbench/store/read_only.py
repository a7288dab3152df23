"""Read-only caches: folders that others filled, in which a run looks for what its own cache lacks.

Nothing is ever written to them or removed from them, locks and times of use included. They have the layout of any
cache, so that the same name below another folder is the same artifact.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_also: dict[Path, tuple[Path, ...]] = {}
"""The read-only caches beside each cache of this process."""


def read_also(cache: Path, read_only: Iterable[Path]) -> None:
    """Look in read-only caches, in this order, for whatever is not in `cache`; for this process, until called again."""
    _also[cache] = tuple(read_only)


def copies(path: Path) -> list[Path]:
    """Return where a file or folder of the cache would lie in each of the read-only caches; they may not be there."""
    return [
        folder / path.relative_to(cache)
        for cache, folders in _also.items()
        if folders and path.is_relative_to(cache)
        for folder in folders
    ]
