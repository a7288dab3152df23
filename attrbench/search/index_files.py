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

from attrbench.contracts.method import Scorer, StateSize
from attrbench.errors import AttrbenchError
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.views import TrainRows
from attrbench.files import sha256_of
from attrbench.search.exact import ExactSearch
from attrbench.store.checksums import IndexSeal, drop, seal_path

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
    seal = _sealed(path)
    if seal is not None:
        with suppress(OSError):  # when the index was last used, where that can be kept (attrbench.store.cache_index)
            os.utime(seal_path(path))
        return KeptIndex(load(str(path)), seal.bytes, seal.seconds)
    started = time.perf_counter()
    index = build()
    seconds = time.perf_counter() - started
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(index, str(part))
        seal = IndexSeal(bytes=part.stat().st_size, sha256=sha256_of(part), seconds=seconds)
        seal_path(path).unlink(missing_ok=True)
        part.replace(path)
        seal.write(path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            part.unlink()
        if not seal_path(path).exists():
            drop(path)
        raise AttrbenchError(
            f"cannot keep the index in {path.parent}: {error}; choose another folder with --cache"
        ) from None
    return KeptIndex(index, seal.bytes, 0.0)


def _sealed(path: Path) -> IndexSeal | None:
    """The seal, where it is there and the file is what it says."""
    if not path.exists() or not seal_path(path).exists():
        return None
    try:
        seal = IndexSeal.read(path)
        if seal.fits(path):
            return seal
    except (OSError, ValueError):
        pass
    log.warning("index %s is damaged (size or checksum differ): building it again", path)
    return None


class IndexSearch(Scorer):
    """A search in a kept index: what its file costs, and the exhaustive search that it is measured against."""

    _rows: TrainRows
    _feature: GradientRows
    _normalize: bool
    _kept: KeptIndex[Any]

    def size(self) -> StateSize:
        """The index file, which holds the rows or their codes."""
        return StateSize(index=self._kept.bytes)

    def build_seconds(self) -> float:
        """What building the index took, where it was loaded."""
        return self._kept.earlier_seconds

    def exact(self) -> ExactSearch:
        """Exhaustive search over the same rows."""
        return ExactSearch(self._rows, self._feature, self._normalize)
