"""The results folder, cache folder and device of a run, with their defaults."""

from __future__ import annotations

import os
from pathlib import Path

from attrbench.store.default_cache import default_cache

RESULTS = Path("attrbench-results")


def results_folder(out: str | Path | None) -> Path:
    """Return the folder for records: the given one, else that of ATTRBENCH_OUT, else `attrbench-results` here."""
    return Path(os.environ.get("ATTRBENCH_OUT") or RESULTS) if out is None else Path(out)


def cache_folder(cache: str | Path | None, out: str | Path | None) -> Path:
    """Return the cache folder for features and indexes: the given one, else the user's own cache folder."""
    return default_cache(results_folder(out)) if cache is None else Path(cache)


def chosen_device(given: str | None) -> str:
    """Return the name of the given torch device; for None `cuda` where torch finds a CUDA device, else `cpu`."""
    if given is not None:
        return given
    import torch  # heavy: only a run needs it

    return "cuda" if torch.cuda.is_available() else "cpu"
