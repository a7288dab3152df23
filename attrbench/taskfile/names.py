"""Names of tasks on the command line, told from paths of task files."""

from __future__ import annotations

import os


def is_file(name: str) -> bool:
    """Return whether a `-t` string names a task file: a path, or something that ends in .toml."""
    return name.endswith(".toml") or "/" in name or os.sep in name
