"""The entries of a cache as `attrbench cache` lists them: files, artifacts with their faults, groups of artifacts."""

from __future__ import annotations

import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

from attrbench.store.checksums import Seal, data_bytes, measure
from attrbench.store.fingerprint import fingerprint
from attrbench.store.shards import FeatureFile, Unit

_SHARD = re.compile(r"items-(\d{8,})-(\d{8,})\.safetensors")


@dataclass(frozen=True)
class File:
    """A file of the cache, as it was when the cache was indexed.

    Attributes:
        path: path of the file.
        bytes: size; 0 if it is not a regular file.
        modified: modification time in seconds since 1970.
        regular: False for symbolic links, pipes and the like, which are never touched.
    """

    path: Path
    bytes: int
    modified: float
    regular: bool


def file_at(path: Path) -> File:
    """Return the file at `path`, without following a link.

    Raises:
        OSError: where there is no file, or its status can't be read.
    """
    status = path.lstat()
    regular = stat.S_ISREG(status.st_mode)
    return File(path, status.st_size if regular else 0, status.st_mtime, regular)


@dataclass(frozen=True)
class Fault:
    """A fault of a file or folder of the cache.

    Attributes:
        path: the file or folder.
        what: what is wrong, in words.
        broken: whether the next run computes the data again; False if the file only can't be read or removed.
    """

    path: Path
    what: str
    broken: bool = True


class FileSet(ABC):
    """A set of files that are listed and removed together."""

    @property
    @abstractmethod
    def files(self) -> tuple[File, ...]:
        """All files, the one that describes the others last, so that an interrupted removal can be recognized."""

    @property
    def bytes(self) -> int:
        """Total size of the files."""
        return sum(file.bytes for file in self.files)

    @property
    def last_used(self) -> float:
        """The latest modification time; using an artifact sets that of its seal or of its `feature.json`."""
        return max(file.modified for file in self.files)


@dataclass(frozen=True)
class CacheEntry(FileSet):
    """One artifact of the cache, complete or not; also a part file, or data of version 0.1.

    Attributes:
        path: path of the data, a file or a folder.
        data: the file, or all files of the folder.
        sidecar: the file that contains the seal, if any.
    """

    path: Path
    data: tuple[File, ...]
    sidecar: File | None = None

    @property
    def files(self) -> tuple[File, ...]:
        """The data files, then the seal."""
        return (*self.data, *(() if self.sidecar is None else (self.sidecar,)))

    @property
    def regular(self) -> bool:
        """Return whether all files are regular, not links to elsewhere."""
        return all(file.regular for file in self.files)

    @cached_property
    def _read(self) -> Seal | Fault | None:
        """The seal, or its fault; None if there is no seal or a link among the files."""
        if self.sidecar is None or not self.regular:
            return None
        try:
            return Seal.read(self.sidecar.path)
        except ValueError:
            return Fault(self.sidecar.path, "sidecar is damaged: it does not give size and checksum")
        except OSError as error:
            return Fault(self.sidecar.path, f"cannot be read: {error.strerror}", broken=False)

    @property
    def seal(self) -> Seal | None:
        """The seal; None if it can't be read."""
        return self._read if isinstance(self._read, Seal) else None

    def fault(self, whole: bool = False) -> Fault | None:
        """Return the fault of the data by its size, with `whole` also by its checksum (reads all of it), or None."""
        seal = self._read
        if not isinstance(seal, Seal) or self.sidecar is None:
            return seal if isinstance(seal, Fault) else None
        if not self.path.exists():
            return Fault(self.sidecar.path, "sidecar without data")
        try:
            size = data_bytes(self.path)
            if size != seal.bytes:
                what = "truncated" if size < seal.bytes else "too long"
                return Fault(self.path, f"{what}: {size} of {seal.bytes} bytes")
            if whole and measure(self.path).sha256 != seal.sha256:
                return Fault(self.path, "checksum differs")
        except OSError as error:
            return Fault(Path(error.filename or self.path), f"cannot be read: {error.strerror}", broken=False)
        return None


@dataclass(frozen=True)
class Group(FileSet):
    """Artifacts in one folder with equal kind and summary, such as the shards of a feature.

    Attributes:
        folder: the folder.
        entries: the artifacts.
        about: `feature.json`, if they are shards of a feature.
    """

    folder: Path
    entries: list[CacheEntry]
    about: File | None = None

    @property
    def files(self) -> tuple[File, ...]:
        """The artifacts' files, then `feature.json`."""
        return (*chain.from_iterable(p.files for p in self.entries), *(() if self.about is None else (self.about,)))

    @cached_property
    def _about(self) -> FeatureFile | Fault | None:
        if self.about is None or not self.about.regular:
            return None
        try:
            content = FeatureFile.read(self.about.path)
            if fingerprint(content.description)[:20] == self.folder.name:
                return content
        except OSError as error:
            return Fault(self.about.path, f"cannot be read: {error.strerror}", broken=False)
        except (ValueError, RecursionError):
            pass  # not what was written
        return Fault(self.about.path, "is not the description of this folder (runs don't read it)", broken=False)

    @property
    def about_fault(self) -> Fault | None:
        """The fault of `feature.json`, or None; the file is for `attrbench cache` only, runs don't read it."""
        return self._about if isinstance(self._about, Fault) else None

    @property
    def description(self) -> Mapping[str, object]:
        """The description of the feature in `feature.json`; empty if that file is missing or faulty."""
        return self._about.description if isinstance(self._about, FeatureFile) else {}

    @property
    def of(self) -> str:
        """Task and data split that the first shard was made for, such as `digits-mini v1 train`; empty if unknown."""
        return self._about.of if isinstance(self._about, FeatureFile) else ""

    @cached_property
    def told(self) -> tuple[str, str]:
        """Kind and summary of the data, from `feature.json` or a seal; ("?", "") if neither can be read."""
        said = [self._about] if isinstance(self._about, FeatureFile) else [p.seal for p in self.entries if p.seal]
        return (said[0].kind, said[0].summary) if said else ("?", "")

    @cached_property
    def _with_faults(self) -> list[tuple[CacheEntry, Fault | None]]:
        return [(entry, entry.fault()) for entry in self.entries if entry.regular]

    @property
    def faults(self) -> list[Fault]:
        """Faults of the artifacts, judged by their sizes."""
        return [fault for _, fault in self._with_faults if fault is not None]

    @property
    def done(self) -> list[CacheEntry]:
        """The artifacts whose size matches their seal."""
        return [entry for entry, fault in self._with_faults if fault is None]

    @property
    def items(self) -> int:
        """Number of items in complete shards; an item in several shards counts once."""
        keys = {key for entry in self.done if entry.seal is not None for key in entry.seal.facts.get("keys", ())}
        if keys:
            return len(keys)
        end = total = 0
        matches = [match for entry in self.done if (match := _SHARD.fullmatch(entry.path.name))]
        for unit in sorted(Unit(int(match[1]), int(match[2])) for match in matches):
            total += max(0, unit.last - max(unit.first, end))
            end = max(end, unit.last)
        return total
