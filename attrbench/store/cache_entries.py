"""The entries of a cache as `attrbench cache` lists them: files, artifacts with faults, groups of artifacts."""

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
    """A file of the cache with its size and modification time at the moment of listing.

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
    """Return path, size and modification time of a file; a symbolic link is not followed.

    Raises:
        OSError: where there is no file, or its status can't be read.
    """
    status = path.lstat()
    regular = stat.S_ISREG(status.st_mode)
    return File(path, status.st_size if regular else 0, status.st_mtime, regular)


@dataclass(frozen=True)
class Fault:
    """A fault found in the cache: the file or folder, what is wrong, and whether it will be computed again.

    Attributes:
        path: the file or folder.
        what: what is wrong, in words.
        broken: whether the next run computes the data again; False if the file only can't be read or removed.
    """

    path: Path
    what: str
    broken: bool = True


class FileSet(ABC):
    """A base class of sets of cache files that are listed and removed together."""

    @property
    @abstractmethod
    def files(self) -> tuple[File, ...]:
        """Return all files; the one that describes the others is last, so that removal can be resumed."""

    @property
    def bytes(self) -> int:
        """Return the total size of these cache files in bytes."""
        return sum(file.bytes for file in self.files)

    @property
    def last_used(self) -> float:
        """Return the time of last use: the latest modification time of the files, in seconds since 1970."""
        return max(file.modified for file in self.files)


@dataclass(frozen=True)
class CacheEntry(FileSet):
    """One artifact found in a cache (data and seal), complete or not; also a part file or data of version 0.1.

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
        """Return the artifact's data files, followed by the file with its seal."""
        return (*self.data, *(() if self.sidecar is None else (self.sidecar,)))

    @property
    def regular(self) -> bool:
        """Return whether all of the artifact's files are regular files, not symbolic links."""
        return all(file.regular for file in self.files)

    @cached_property
    def _read(self) -> Seal | Fault | None:
        """Return the artifact's seal, or the fault of reading it; None without a seal or with links."""
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
        """Return the artifact's seal (size, checksum, description); None if it can't be read."""
        return self._read if isinstance(self._read, Seal) else None

    def fault(self, whole: bool = False) -> Fault | None:
        """Return what is wrong with the data: the size, with `whole` also the checksum; None if nothing is."""
        seal = self._read
        if not isinstance(seal, Seal) or self.sidecar is None:
            return seal if isinstance(seal, Fault) else None
        try:
            if not self.data or sum(file.bytes for file in self.data) != seal.bytes:
                if not self.path.exists():
                    return Fault(self.sidecar.path, "sidecar without data")
                size = data_bytes(self.path)  # a run may have written it since the cache was listed
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
    """A group of artifacts in one cache folder with equal kind and summary, such as the shards of a feature.

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
        """Return the files of all artifacts in the group, followed by `feature.json`."""
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
        """Return what is wrong with the group's `feature.json`, or None; runs do not read that file."""
        return self._about if isinstance(self._about, Fault) else None

    @property
    def all_faults(self) -> list[Fault]:
        """Return the faults of the group's artifacts, and of its `feature.json`."""
        return [*self.faults, *([] if self.about_fault is None else [self.about_fault])]

    @property
    def description(self) -> Mapping[str, object]:
        """Return the feature's description in `feature.json`; empty if that file is missing or faulty."""
        return self._about.description if isinstance(self._about, FeatureFile) else {}

    @property
    def of(self) -> str:
        """Task and data split that the first shard was made for, such as `digits-mini v1 train`; empty if unknown."""
        return self._about.of if isinstance(self._about, FeatureFile) else ""

    @cached_property
    def told(self) -> tuple[str, str]:
        """Return kind and summary of the group's data, as `feature.json` or a seal says; ("?", "") if unknown."""
        said = [self._about] if isinstance(self._about, FeatureFile) else [p.seal for p in self.entries if p.seal]
        return (said[0].kind, said[0].summary) if said else ("?", "")

    @cached_property
    def _with_faults(self) -> list[tuple[CacheEntry, Fault | None]]:
        return [(entry, entry.fault()) for entry in self.entries if entry.regular]

    @property
    def faults(self) -> list[Fault]:
        """Return the faults of the group's artifacts, judged by their sizes, not by checksums."""
        return [fault for _, fault in self._with_faults if fault is not None]

    @property
    def done(self) -> list[CacheEntry]:
        """Return the artifacts of the group whose data have the size that their seal says."""
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
