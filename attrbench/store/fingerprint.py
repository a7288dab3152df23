"""Fingerprints: hashes of the settings and files that decide the content of cached data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path


def fingerprint(description: object) -> str:
    """Return the sha256 of a JSON-compatible description of data, 64 hex digits, as a key in the cache."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def parameters_fingerprint(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return a hash of the names, shapes and order of the parameters that gradients are taken of."""
    return fingerprint([[name, list(shape)] for name, shape in shapes.items()])


def files_state(path: Path) -> list[list[object]]:
    """Return [path, size, mtime_ns] of a file, or of all files below a folder, to detect changes without reading."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    states = ((file, file.stat()) for file in files)
    return [[file.relative_to(path.parent).as_posix(), state.st_size, state.st_mtime_ns] for file, state in states]


def local_state(paths: Iterable[str | Path | None]) -> list[list[list[object]]]:
    """Return the `files_state` of each path that exists locally; hub ids and None are skipped."""
    local = [Path(path).expanduser() for path in paths if path is not None]
    return [files_state(path) for path in local if path.exists()]


def folder_digest(folder: Path) -> str:
    """Return the sha256 of the paths and contents of all files below `folder`, except `__pycache__`."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
