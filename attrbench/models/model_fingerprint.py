"""Fingerprints of models: hashes of the files and options that decide their gradients."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

from attrbench.contracts.model_config import ModelConfig
from attrbench.errors import AttrbenchError, Damaged
from attrbench.files import sha256_of
from attrbench.text import plain

IGNORED = ("*.fp16.*", "*.fp16-*", "*non_ema*", "*.bin", "*.msgpack", "*.onnx*", "*.ckpt", "*.md", ".*")
"""Files of a pipeline folder that are never loaded here."""
BLOCK = 2**20
"""Bytes of a file in memory at a time."""


def folder_files(folder: Path, components: Iterable[str]) -> list[Path]:
    """Return the files of a pipeline's components that enter its fingerprint, in a fixed order."""
    return [
        file
        for component in sorted(components)
        for file in sorted((folder / component).rglob("*"))
        if file.is_file() and not any(fnmatch(file.name, pattern) for pattern in IGNORED)
    ]


def file_digest(file: Path) -> str:
    """Return the sha256 of a model file, for plans; for large files in the hub's cache it is read off the name.

    A file is read once a process, unless it was written over.

    Raises:
        AttrbenchError: where it can't be read.
    """
    blob = file.resolve()
    if file.is_symlink() and blob.parent.name == "blobs" and len(blob.name) == 64:
        return blob.name
    return content_digest(file)


def content_digest(file: Path) -> str:
    """Return the sha256 of a model file's content, for models that are loaded; read once a process.

    Raises:
        AttrbenchError: where it can't be read.
        Damaged: where a file in the hub's cache is not what its name says.
    """
    blob = file.resolve()
    with _reading(file):
        state = blob.stat()
        digest = _digest(blob, state.st_size, state.st_mtime_ns)
    if digest != blob.name and file.is_symlink() and blob.parent.name == "blobs" and len(blob.name) == 64:
        raise Damaged(f"{blob} is damaged (its checksum is not its name): delete it, so that it is downloaded again")
    return digest


def models_state(paths: Iterable[str | Path | None]) -> list[list[list[object]]]:
    """Return [path, size, sha256] of the files of each model or LoRA that exists locally; hub ids and None are skipped.

    Files that no model is loaded from are left out. The contents count, as a model's gradients do by theirs: weights
    that changed under the same size and time are other weights.
    """
    local = [Path(path).expanduser() for path in paths if path is not None]
    return [_contents(path) for path in local if path.exists()]


def _contents(path: Path) -> list[list[object]]:
    files = folder_files(path.parent, [path.name]) if path.is_dir() else [path]
    return [[file.relative_to(path.parent).as_posix(), file.stat().st_size, file_digest(file)] for file in files]


@contextmanager
def _reading(*files: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        names = ", ".join(plain(file) for file in files)
        raise AttrbenchError(f"model file {names} can't be read: {error.strerror}") from None


@lru_cache(maxsize=4096)
def _digest(file: Path, size: int, modified: int) -> str:
    """Return the sha256 of a file, remembered until its size or modification time changes."""
    return sha256_of(file)


def concatenation_digest(files: Iterable[Path]) -> str:
    """Return the sha256 of the concatenated contents of files, remembered until one of them changes.

    Raises:
        AttrbenchError: where one can't be read.
    """
    resolved = [file.resolve() for file in files]
    with _reading(*resolved):
        states = [file.stat() for file in resolved]
        return _concatenation_digest(
            tuple((file, state.st_size, state.st_mtime_ns) for file, state in zip(resolved, states, strict=True))
        )


@lru_cache(maxsize=256)
def _concatenation_digest(states: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, _, _ in states:
        with file.open("rb") as content:
            while block := content.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def model_digest(config: ModelConfig, resolution: int, files: Mapping[str, str]) -> str:
    """Return a latent model's fingerprint: a hash of its files and of options that change latents or gradients.

    Args:
        config: how the model is used.
        resolution: pixels on a side of its pictures.
        files: digest of each file, by its path in the folder.
    """
    options = {name: getattr(config, name) for name in ("attributed", "vae", "dtype", "weights")}
    lines = [f"{name}\0{value}" for name, value in sorted({**files, **options, "resolution": resolution}.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
