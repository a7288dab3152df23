"""Distinction of task names from paths of task files in the command line's `-t` option."""

from __future__ import annotations

import os


def is_file(name: str) -> bool:
    """Return whether the value of `-t` is the path of a task file (ends in .toml, or has a slash)."""
    return name.endswith(".toml") or "/" in name or os.sep in name
