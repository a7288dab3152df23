"""What `attrbench cache` sees of a cache: files, artifacts with what is wrong with them, and groups of artifacts."""

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
    """A name in the cache.

    Attributes:
        path: where it is.
        bytes: its size; 0 where it is not a regular file.
        modified: time of its last change, in seconds since 1970.
        regular: False for symbolic links, pipes and the like, which are left alone.
    """

    path: Path
    bytes: int
    modified: float
    regular: bool


def look_at(path: Path) -> File:
    """Return what is at `path`, links not followed.

    Raises:
        OSError: where nothing is, or it can't be told.
    """
    status = path.lstat()
    regular = stat.S_ISREG(status.st_mode)
    return File(path, status.st_size if regular else 0, status.st_mtime, regular)


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a file or folder.

    Attributes:
        path: which one.
        what: what is wrong, in words.
        broken: whether the next run does the work again; False where the file only can't be read or removed.
    """

    path: Path
    what: str
    broken: bool = True


class Held(ABC):
    """Files that are kept, listed and removed together."""

    @property
    @abstractmethod
    def files(self) -> tuple[File, ...]:
        """All files, the one that says what they are last: while it is there, what is left can still be told."""

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def last_used(self) -> float:
        """The latest time of any file; using an artifact sets that of its seal, or of a feature's `feature.json`."""
        return max(file.modified for file in self.files)


@dataclass(frozen=True)
class Piece(Held):
    """An artifact or the remains of one; also what no seal is needed to tell: part files and those of version 0.1.

    Attributes:
        path: of the data, a file or a folder.
        data: the file, or all files of the folder.
        sidecar: the file that holds the seal, if any.
    """

    path: Path
    data: tuple[File, ...]
    sidecar: File | None = None

    @property
    def files(self) -> tuple[File, ...]:
        """The data's files, and the seal."""
        return (*self.data, *(() if self.sidecar is None else (self.sidecar,)))

    @property
    def regular(self) -> bool:
        """Whether all are files of this cache, not links to elsewhere."""
        return all(file.regular for file in self.files)

    @cached_property
    def _read(self) -> Seal | Fault | None:
        """The seal, or what is wrong with it; None where there is none that may be looked at."""
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
        """What the seal says; None where it can't be read, or is no seal."""
        return self._read if isinstance(self._read, Seal) else None

    def fault(self, whole: bool = False) -> Fault | None:
        """Return what is wrong with it, by its size; with `whole` also by its checksum, which reads all of it."""
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
class Group(Held):
    """Artifacts of one folder that are of one kind and have one summary, such as the shards of a feature.

    Attributes:
        folder: where they are.
        pieces: the artifacts.
        about: `feature.json` of a feature's shards.
    """

    folder: Path
    pieces: list[Piece]
    about: File | None = None

    @property
    def files(self) -> tuple[File, ...]:
        """The artifacts' files, and `feature.json`."""
        return (*chain.from_iterable(p.files for p in self.pieces), *(() if self.about is None else (self.about,)))

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
        """What is wrong with `feature.json`, which is for people and `attrbench cache`: runs don't read it."""
        return self._about if isinstance(self._about, Fault) else None

    @property
    def description(self) -> Mapping[str, object]:
        """Everything that decides a feature's numbers; empty where `feature.json` does not say it of this folder."""
        return self._about.description if isinstance(self._about, FeatureFile) else {}

    @property
    def of(self) -> str:
        """What the data are of, such as `digits-mini v1 train`; empty where no description says so."""
        return " ".join(str(self.description[name]) for name in ("task", "split") if name in self.description)

    @cached_property
    def told(self) -> tuple[str, str]:
        """Kind and summary."""
        said = [self._about] if isinstance(self._about, FeatureFile) else [p.seal for p in self.pieces if p.seal]
        return (said[0].kind, said[0].summary) if said else ("?", "")

    @cached_property
    def _judged(self) -> list[tuple[Piece, Fault | None]]:
        return [(piece, piece.fault()) for piece in self.pieces if piece.regular]

    @property
    def faults(self) -> list[Fault]:
        """What is wrong with the artifacts, by their sizes."""
        return [fault for _, fault in self._judged if fault is not None]

    @property
    def done(self) -> list[Piece]:
        """The artifacts whose size is right."""
        return [piece for piece, fault in self._judged if fault is None]

    @property
    def items(self) -> int:
        """Number of items in the shards that are done; each counts once, however the shards overlap."""
        end = total = 0
        matches = [match for piece in self.done if (match := _SHARD.fullmatch(piece.path.name))]
        for unit in sorted(Unit(int(match[1]), int(match[2])) for match in matches):
            total += max(0, unit.last - max(unit.first, end))
            end = max(end, unit.last)
        return total
