"""Fingerprints: hashes of everything that decides a piece of data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path


def fingerprint(description: object) -> str:
    """sha256 of the canonical JSON of `description` (64 hex digits)."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def parameters_fingerprint(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Hash of the names, shapes and order of the attributed parameters."""
    return fingerprint([[name, list(shape)] for name, shape in shapes.items()])


def files_state(path: Path) -> list[list[object]]:
    """Names, sizes and times of a file, or of all files below a folder: what tells cheaply that they changed."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    states = ((file, file.stat()) for file in files)
    return [[file.relative_to(path.parent).as_posix(), state.st_size, state.st_mtime_ns] for file, state in states]


def local_state(paths: Iterable[str | Path | None]) -> list[list[list[object]]]:
    """The `files_state` of those that are there, as ids of the hub are not: what a task says of its files."""
    local = [Path(path).expanduser() for path in paths if path is not None]
    return [files_state(path) for path in local if path.exists()]


def folder_digest(folder: Path) -> str:
    """sha256 over the paths and contents of all files below `folder`, byte-compiled ones left out."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
