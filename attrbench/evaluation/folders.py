"""The results folder, cache folders and device of a run, with their defaults."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from attrbench.errors import UsageError
from attrbench.store.default_cache import default_cache, users_cache

RESULTS = Path("attrbench-results")
READ_VARIABLE = "ATTRBENCH_READ_CACHE"
"""The environment variable that names read-only caches, separated as in PATH."""

log = logging.getLogger(__name__)


class Caches(NamedTuple):
    """The cache folder of a run, which is written to, and the read-only ones in which it looks for what that lacks."""

    written: Path
    read: tuple[Path, ...]


def results_folder(out: str | Path | None) -> Path:
    """Return the folder for records: the given one, else that of ATTRBENCH_OUT, else `attrbench-results` here."""
    return Path(os.environ.get("ATTRBENCH_OUT") or RESULTS) if out is None else Path(out)


def record_places(given: Sequence[str | Path] | None) -> list[Path]:
    """Return where to look for records: the given files and folders, or `results_folder` where none is given."""
    return [Path(place) for place in given] if given else [results_folder(None)]


def cache_folder(cache: str | Path | None, out: str | Path | None) -> Path:
    """Return the cache folder for features and indexes: the given one, else the user's own cache folder."""
    return default_cache(results_folder(out)) if cache is None else Path(cache)


def cache_folders(cache: str | Path | None, out: str | Path | None, read: Sequence[str | Path] | None = None) -> Caches:
    """Return the cache folder of a run and the caches that it only reads.

    A cache folder that this user can't write to becomes one that is only read, with a line that says so; what is new
    then goes to the user's own cache folder.

    Args:
        cache: the folder that is named; None for the default one.
        out: folder of the records.
        read: folders of read-only caches; by default those of ATTRBENCH_READ_CACHE.

    Raises:
        UsageError: for a read-only cache that is no folder.
    """
    named = os.environ.get(READ_VARIABLE, "").split(os.pathsep) if read is None else read
    folders = [Path(folder) for folder in named if folder]
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"there is no cache folder {folder} to read from (--read-cache, {READ_VARIABLE})")
    written, own = cache_folder(cache, out), users_cache()
    if written.is_dir() and not os.access(written, os.W_OK | os.X_OK) and written.resolve() != own.resolve():
        log.warning("%s is only read: you can't write there, so what is new goes to the cache %s", written, own)
        return Caches(own, (written, *folders))
    return Caches(written, tuple(folders))


def chosen_device(given: str | None) -> str:
    """Return the name of the given torch device; for None `cuda` where torch finds a CUDA device, else `cpu`."""
    if given is not None:
        return given
    import torch  # heavy: only a run needs it

    return "cuda" if torch.cuda.is_available() else "cpu"
