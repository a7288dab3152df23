"""The default cache folder, when the user names none."""

from __future__ import annotations

import logging
import os
from pathlib import Path

VARIABLE = "ATTRBENCH_CACHE"
"""The environment variable that names a cache folder."""

log = logging.getLogger(__name__)


def default_cache(out: Path) -> Path:
    """Return the folder named by the environment variable ATTRBENCH_CACHE, else the user's cache folder.

    Args:
        out: folder of the records, in which version 0.1 kept its cache; a warning is logged if that still exists.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    folder, earlier = users_cache(), out / "cache"
    if earlier.is_dir() and earlier.resolve() != folder.resolve():
        log.warning("the cache is %s; %s is not read: remove it, or name it with --cache", folder, earlier)
    return folder


def users_cache() -> Path:
    """Return the user's own cache folder, `~/.cache/attrbench` on Linux."""
    from platformdirs import user_cache_path  # heavy, and the command line imports this module to list its verbs

    return user_cache_path("attrbench", appauthor=False)
