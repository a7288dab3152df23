"""What a model's fingerprint is made of: the files that decide its numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

from attrbench.files import sha256_of
from attrbench.models.config import ModelConfig

IGNORED = ("*.fp16.*", "*.fp16-*", "*non_ema*", "*.bin", "*.msgpack", "*.onnx*", "*.ckpt", "*.md", ".*")
"""Files of a pipeline folder that are never loaded here."""


def folder_files(folder: Path, components: Iterable[str]) -> list[Path]:
    """The files of some components of a pipeline, in a fixed order."""
    return [
        file
        for component in sorted(components)
        for file in sorted((folder / component).rglob("*"))
        if file.is_file() and not any(fnmatch(file.name, pattern) for pattern in IGNORED)
    ]


def file_digest(file: Path) -> str:
    """sha256 of a file's content; of large files in the hub's cache it is the name of the blob, and nothing is read."""
    blob = file.resolve()
    if file.is_symlink() and blob.parent.name == "blobs" and len(blob.name) == 64:
        return blob.name
    state = blob.stat()
    return _digest(blob, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest(file: Path, size: int, modified: int) -> str:
    """Read once a process; `size` and `modified` tell an overwritten file apart."""
    return sha256_of(file)


def model_digest(source: ModelConfig, resolution: int, files: Mapping[str, str]) -> str:
    """Fingerprint of a latent model: its files, and the options that change an item's latents or gradient."""
    options = {name: getattr(source, name) for name in ("attributed", "vae", "dtype", "weights")}
    lines = [f"{name}\0{value}" for name, value in sorted({**files, **options, "resolution": resolution}.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
