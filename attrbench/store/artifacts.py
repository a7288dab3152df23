"""Artifacts: everything that is kept below the cache, each a file or folder with a seal beside it.

Whoever needs one looks for it, locks it, looks again, makes it, and seals it; `Artifact` does that once for all kinds.
The data takes its name last, after the seal, and loses it first. So a kill at any moment leaves a thing that is whole,
or a seal whose data is not there, which counts for nothing and is told from files that somebody else put there.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from attrbench.errors import AttrbenchError
from attrbench.store.checksums import Seal, files_of, measure, seal_path
from attrbench.store.locks import LOCK, lock
from attrbench.version import __version__

T = TypeVar("T")
Facts = Mapping[str, Any]

log = logging.getLogger(__name__)

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""Errors of a build that tell of the disk it writes to, whatever else it reads."""


class Kept(NamedTuple, Generic[T]):
    """What `Artifact.kept` returns.

    Attributes:
        value: what was loaded or made.
        bytes: its size on disk.
        earlier_seconds: what making it took in an earlier run; 0 where it was made just now.
    """

    value: T
    bytes: int
    earlier_seconds: float


@dataclass(frozen=True)
class Artifact:
    """A file or folder that is kept below the cache.

    Attributes:
        path: where it lies; the name must hold a fingerprint of everything that decides the content.
        kind: what sort of thing it is, in free text ("index", "generated queries").
        summary: one line for people that says which one; `attrbench cache ls` shows it.
    """

    path: Path
    kind: str
    summary: str

    def kept(self, build: Callable[[Path], Facts | None], load: Callable[[Path, Facts], T]) -> Kept[T]:
        """Load the artifact; build it before, where it is missing or damaged and no other process does.

        Args:
            build: writes the data to the path it is given, and returns the facts to be kept with it.
            load: reads the data at a path; gets the facts too.

        Raises:
            AttrbenchError: where the cache can't be written to.
        """
        seal = self.whole()
        if seal is None:
            with self.lock():
                seal = self.whole()  # another process may just have made it
                if seal is None:
                    self.report_damage()
                    seal = self.write(build)
                    return Kept(load(self.path, seal.facts), seal.bytes, 0.0)
        self.touch()
        return Kept(load(self.path, seal.facts), seal.bytes, seal.seconds)

    def arrays(self, build: Callable[[], Mapping[str, NDArray[Any]]]) -> Kept[dict[str, NDArray[Any]]]:
        """Load the arrays of a safetensors file; build them before, where they are missing or damaged.

        Raises:
            AttrbenchError: where the cache can't be written to.
        """
        made: dict[str, NDArray[Any]] = {}

        def make(part: Path) -> None:
            made.update(build())
            write_arrays(part, made)

        return self.kept(make, lambda path, _: made or load_file(path))

    def whole(self) -> Seal | None:
        """Return the seal where the data is there and fits it; reads all of the data."""
        seal = self.seal()
        with suppress(OSError):
            if seal is not None and seal.fits(self.path):
                return seal
        return None

    def seal(self) -> Seal | None:
        """Return the seal, without a look at the data; None where there is none that can be read."""
        try:
            return Seal.read(seal_path(self.path))
        except (OSError, ValueError):
            return None

    def is_there(self) -> bool:
        """Return whether data and seal are both there, whole or not."""
        return self.path.exists() and seal_path(self.path).exists()

    def report_damage(self) -> None:
        """Log that the artifact is damaged, where it is there; for use after `whole`."""
        if self.is_there():
            log.warning("%s %s is damaged (size or checksum differ): making it again", self.kind, self.path)

    def lock(self, wait: bool = True) -> AbstractContextManager[bool]:
        """Lock the artifact against other processes; see `attrbench.store.locks.lock`."""
        return lock(self.path.with_name(self.path.name + LOCK), wait)

    def write(self, build: Callable[[Path], Facts | None]) -> Seal:
        """Make the artifact, whatever was there, and return its seal.

        Args:
            build: see `kept`.

        Raises:
            AttrbenchError: where the cache can't be written to.
        """
        part, started = self.path.with_name(f"{self.path.name}.part-{os.getpid()}"), time.perf_counter()
        try:
            with cache_errors(self.path.parent):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with cache_errors(self.path.parent, _DISK):
                facts = build(part) or {}
            seconds = time.perf_counter() - started
            with cache_errors(self.path.parent):
                return self._commit(part, facts, seconds)
        finally:
            _remove(part)

    def write_bytes(self, data: bytes, facts: Facts | None = None) -> Seal:
        """Make the artifact of these bytes, whatever was there, and return its seal.

        Raises:
            AttrbenchError: where the cache can't be written to.
        """

        def build(part: Path) -> Facts | None:
            part.write_bytes(data)
            return facts

        return self.write(build)

    def _commit(self, part: Path, facts: Facts, seconds: float) -> Seal:
        for file in files_of(part):
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        if self.path.exists() and self.path.is_dir() != part.is_dir():
            raise OSError(errno.EEXIST, f"something else is at {self.path}")
        size, digest = measure(part)
        seal = Seal(
            kind=self.kind,
            summary=self.summary,
            bytes=size,
            sha256=digest,
            seconds=seconds,
            created_by=__version__,
            facts=dict(facts),
        )
        try:
            before = self.seal()
            if part.is_dir() or before is None or before.sha256 != digest:  # of a file, equal data may stay
                _remove(self.path)
            seal.write(seal_path(self.path))
            part.replace(self.path)
        except OSError:
            self.drop()
            raise
        return seal

    def touch(self) -> None:
        """Set the time of the seal: when the artifact was last used. A cache that is read-only is read all the same."""
        with suppress(OSError):
            os.utime(seal_path(self.path))

    def drop(self) -> None:
        """Remove data and seal, as far as they are there and can be removed."""
        _remove(self.path)
        _remove(seal_path(self.path))


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], facts: Facts | None = None) -> Facts | None:
    """Write arrays as a safetensors file, and return the facts."""
    path.write_bytes(save({name: np.asarray(array, order="C") for name, array in arrays.items()}))
    return facts


@contextmanager
def cache_errors(folder: Path, codes: set[int] | None = None) -> Iterator[None]:
    """Turn an OSError, of these codes only where they are given, into one line about the cache.

    Args:
        folder: that is written to.
        codes: errno values; None for all.
    """
    try:
        yield
    except OSError as error:
        if codes is not None and error.errno not in codes:
            raise
        raise AttrbenchError(
            f"cannot write to the cache {folder}: {error.strerror}; free room there or choose another folder with"
            " --cache (what is finished is kept)"
        ) from None


def _remove(path: Path) -> None:
    """Remove a file or folder, as far as it is there and can be removed; a folder loses its name first."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path.rename(path.with_name(f"{path.name}.gone.part-{os.getpid()}")), ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
