"""Artifacts: files or folders of the cache, each beside a JSON file with its size and checksum (the seal).

To use an artifact, a process looks for it, locks it, looks again, builds it and seals it; `Artifact` does that for all
kinds of data. The data gets its final name last, after the seal is written, and loses it first. A kill at any moment
therefore leaves either complete data, or a seal without data, which is ignored.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from attrbench.errors import AttrbenchError
from attrbench.files import part_path, write_new
from attrbench.store.checksums import Seal, files_of, measure, seal_path
from attrbench.store.locks import claim
from attrbench.store.read_only import copies
from attrbench.version import __version__

T = TypeVar("T")
Facts = Mapping[str, Any]

log = logging.getLogger(__name__)

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""Error codes during a build that mean that the cache's disk can't be written to."""


class Kept(NamedTuple, Generic[T]):
    """An object loaded from the cache or just built, with its size on disk and the time of an earlier build.

    Attributes:
        value: the loaded or built object.
        bytes: size on disk.
        earlier_seconds: seconds that building took in an earlier run; 0 if it was built just now.
    """

    value: T
    bytes: int
    earlier_seconds: float


class Found(NamedTuple):
    """The place of whole data, in the cache or in a read-only one, and their seal (size, checksum, facts)."""

    path: Path
    seal: Seal


@dataclass(frozen=True)
class Artifact:
    """A file or folder in the cache with its size and checksum, which is built once and then loaded.

    What the cache lacks is loaded from a read-only cache (`attrbench.store.read_only`) that holds it; what is built
    goes to the cache.

    Attributes:
        path: path of the file or folder; its name must contain a fingerprint of everything that decides the content.
        kind: kind of data, in free text ("index", "generated queries").
        summary: one line that describes the data, for `attrbench cache ls`.
        option: the command-line option that chooses the folder, for errors.
    """

    path: Path
    kind: str
    summary: str
    option: str = "--cache"

    def kept(self, build: Callable[[Path], Facts | None], load: Callable[[Path, Facts], T]) -> Kept[T]:
        """Return the object loaded from the cache, built first if missing or damaged, by one process only.

        Args:
            build: writes the data to the path that it is given, and returns facts (JSON) to be stored in the seal.
            load: returns the object stored at a path; also gets the facts.

        Raises:
            AttrbenchError: where the cache can't be written to.
        """
        found = self.found()
        if found is None:
            with self.lock():
                found = self.found()  # another process may just have made it
                if found is None:
                    self.report_damage()
                    seal = self.write(build)
                    return Kept(load(self.path, seal.facts), seal.bytes, 0.0)
        self.touch()
        return Kept(load(found.path, found.seal.facts), found.seal.bytes, found.seal.seconds)

    def arrays(self, build: Callable[[], Mapping[str, NDArray[Any]]]) -> Kept[dict[str, NDArray[Any]]]:
        """Return the arrays of a cached safetensors file (name -> array), computed first if missing or damaged.

        Raises:
            AttrbenchError: where the cache can't be written to.
        """
        built: dict[str, NDArray[Any]] = {}

        def make(part: Path) -> None:
            built.update(build())
            write_arrays(part, built)

        return self.kept(make, lambda path, _: built or load_file(path))

    def found(self) -> Found | None:
        """Return where the data are that match their seal, in the cache or in a read-only one; None if nowhere."""
        for place in (self, *self._copies()):
            if (seal := place.whole()) is not None:
                return Found(place.path, seal)
        return None

    def _copies(self) -> list[Artifact]:
        return [replace(self, path=path) for path in copies(self.path)]

    def whole(self) -> Seal | None:
        """Return the seal (size, checksum, facts) if the data match it, else None; reads all of the data."""
        seal = self.seal()
        with suppress(OSError):
            if seal is not None and seal.fits(self.path):
                return seal
        return None

    def seal(self) -> Seal | None:
        """Return the seal (size, checksum, facts) without checking the data; None if it can't be read."""
        try:
            return Seal.read(seal_path(self.path))
        except (OSError, ValueError):
            return None

    def is_there(self) -> bool:
        """Return whether the cached data and their seal exist, without checking size or checksum."""
        return self.path.exists() and seal_path(self.path).exists()

    def report_damage(self, remedy: str = "making it again") -> None:
        """Log a warning for each place of damaged data; to be called after `found` or `whole` returned None."""
        if self.is_there():
            log.warning("%s %s is damaged (size or checksum differ): %s", self.kind, self.path, remedy)
        for copy in self._copies():
            if copy.is_there():
                log_damaged_copy(self.kind, copy.path, self.path)

    def lock(self, wait: bool = True, leases: bool = False) -> AbstractContextManager[bool]:
        """Lock this artifact of the cache against other processes that would build it at the same time (`claim`)."""
        return claim(self.path, wait, leases)

    def write(self, build: Callable[[Path], Facts | None]) -> Seal:
        """Build the data, replacing any earlier ones in the cache, and return their seal (size, checksum, facts).

        Args:
            build: see `kept`.

        Raises:
            AttrbenchError: where the cache can't be written to.
        """
        part, started = part_path(self.path), time.perf_counter()
        try:
            with cache_errors(self.path.parent, option=self.option):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with cache_errors(self.path.parent, _DISK, self.option):
                facts = build(part) or {}
            seconds = time.perf_counter() - started
            with cache_errors(self.path.parent, option=self.option):
                return self._commit(part, facts, seconds)
        finally:
            _remove(part)

    def write_bytes(self, data: bytes, facts: Facts | None = None) -> Seal:
        """Write these bytes as the file in the cache, replacing any earlier one, and return its seal.

        Raises:
            AttrbenchError: where the cache can't be written to.
        """

        def build(part: Path) -> Facts | None:
            write_new(part, data)
            return facts

        return self.write(build)

    def adopt(self) -> Seal:
        """Seal the data that lie at the path already, such as a folder that something else filled in its own time.

        Raises:
            AttrbenchError: where the cache can't be written to.
        """
        with cache_errors(self.path.parent, option=self.option):
            seal = self._sealing(self.path, {}, 0.0)
            seal.write(seal_path(self.path))
        return seal

    def _sealing(self, data: Path, facts: Facts, seconds: float) -> Seal:
        """Return the seal of data that are synced to disk first."""
        for file in files_of(data):
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        size, digest = measure(data)
        return Seal(
            kind=self.kind,
            summary=self.summary,
            bytes=size,
            sha256=digest,
            seconds=seconds,
            created_by=__version__,
            facts=dict(facts),
        )

    def _commit(self, part: Path, facts: Facts, seconds: float) -> Seal:
        if self.path.exists() and self.path.is_dir() != part.is_dir():
            raise OSError(errno.EEXIST, f"something else is at {self.path}")
        seal = self._sealing(part, facts, seconds)
        try:
            before = self.seal()
            if part.is_dir() or before is None or before.sha256 != seal.sha256:  # of a file, equal data may stay
                _remove(self.path)
            seal.write(seal_path(self.path))
            part.replace(self.path)
        except OSError:
            self.drop()
            raise
        return seal

    def touch(self) -> None:
        """Record that the data were used now, as the seal's modification time; not in read-only caches."""
        with suppress(OSError):
            os.utime(seal_path(self.path))

    def drop(self) -> None:
        """Remove the data and their seal from the cache if they exist; errors are ignored."""
        _remove(self.path)
        _remove(seal_path(self.path))


def log_damaged_copy(what: str, copy: Path, path: Path) -> None:
    """Log a warning that data in a read-only cache are damaged, so that they are made at `path` in the cache."""
    log.warning(
        "%s %s is damaged (size or checksum differ); that cache is only read: making it again in %s",
        what,
        copy,
        path.parent,
    )


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], facts: Facts | None = None) -> Facts | None:
    """Write arrays as a safetensors file at `path`, and return the given metadata for the seal."""
    write_new(path, save({name: np.asarray(array, order="C") for name, array in arrays.items()}))
    return facts


@contextmanager
def cache_errors(folder: Path, codes: set[int] | None = None, option: str = "--cache") -> Iterator[None]:
    """Turn an OSError inside the `with` block into an AttrbenchError that says that the cache can't be written to.

    Args:
        folder: the folder that is written to.
        codes: errno values to which this applies; None for all.
        option: the command-line option that chooses the folder.
    """
    try:
        yield
    except OSError as error:
        if codes is not None and error.errno not in codes:
            raise
        raise AttrbenchError(
            f"cannot write to {'the cache ' if option == '--cache' else ''}{folder}: {error.strerror}; free room there"
            f" or choose another folder with {option} (what is finished is kept)"
        ) from None


def _remove(path: Path) -> None:
    """Remove a file or folder, ignoring errors; a folder is renamed first, so that it vanishes at once."""
    with suppress(OSError):
        if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
            return
        gone = path
        with suppress(OSError):  # a full disk may have no room for another name
            gone = path.rename(part_path(path.with_name(f"{path.name}.gone")))
        shutil.rmtree(gone, ignore_errors=True)
