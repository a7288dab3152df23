"""Index files: built once, kept with the seconds that building took, loaded ever after."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from attrbench.errors import AttrbenchError
from attrbench.features import Rows
from attrbench.files import sha256_of, write_atomically
from attrbench.method import Scorer, StateSize
from attrbench.retrieval.exact import ExactSearch

log = logging.getLogger(__name__)

IndexT = TypeVar("IndexT")


@dataclass(frozen=True)
class KeptIndex(Generic[IndexT]):
    """An index and its file.

    Attributes:
        index: the index, in memory.
        bytes: size of its file.
        earlier_seconds: what building took in an earlier run; 0 where it was built just now.
    """

    index: IndexT
    bytes: int
    earlier_seconds: float


def kept_index(
    path: Path, build: Callable[[], IndexT], save: Callable[[IndexT, str], None], load: Callable[[str], IndexT]
) -> KeptIndex[IndexT]:
    """Loads the index at `path`, or builds and saves it.

    The sidecar is written last, so that a file cut off by a kill is never loaded.
    """
    about = _verified(path)
    if about is not None:
        with suppress(OSError):  # when the index was last used, where that can be kept (attrbench.store.inventory)
            os.utime(_sidecar(path))
        return KeptIndex(load(str(path)), about.bytes, about.seconds)
    started = time.perf_counter()
    index = build()
    seconds = time.perf_counter() - started
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(index, str(part))
        digest, size = sha256_of(part), part.stat().st_size
        _sidecar(path).unlink(missing_ok=True)
        part.replace(path)
        about = About(bytes=size, sha256=digest, seconds=seconds)
        write_atomically(_sidecar(path), about.model_dump_json().encode())
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            part.unlink()
        raise AttrbenchError(
            f"cannot keep the index in {path.parent}: {error}; choose another folder with --cache"
        ) from None
    return KeptIndex(index, size, 0.0)


class About(BaseModel):
    """What the sidecar of an index file says: its size and checksum, and the seconds that building it took."""

    bytes: int
    sha256: str
    seconds: float


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".json")


def _verified(path: Path) -> About | None:
    """The sidecar, where it is there and the file is what it says."""
    if not path.exists() or not _sidecar(path).exists():
        return None
    try:
        about = About.model_validate_json(_sidecar(path).read_bytes())
    except ValidationError:
        return None
    if path.stat().st_size != about.bytes or sha256_of(path) != about.sha256:
        log.warning("index %s is damaged (size or checksum differ): building it again", path)
        return None
    return about


class IndexSearch(Scorer):
    """A search in a kept index: what its file costs, and the exhaustive search that it is measured against."""

    _rows: Rows
    _normalise: bool
    _kept: KeptIndex[Any]

    def size(self) -> StateSize:
        """The index file, which holds the rows or their codes."""
        return StateSize(index=self._kept.bytes)

    def build_seconds(self) -> float:
        """What building the index took, where it was loaded."""
        return self._kept.earlier_seconds

    def exact(self) -> ExactSearch:
        """Exhaustive search over the same rows."""
        return ExactSearch(self._rows, self._normalise)
