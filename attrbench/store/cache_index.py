"""What lies in a cache folder, and what of it is not whole, by what the files say of themselves.

No symbolic link below the folder is followed: what it leads to belongs to someone else.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

from attrbench.errors import AttrbenchError
from attrbench.store.checksums import SEAL, Seal, data_bytes, measure
from attrbench.store.fingerprint import fingerprint
from attrbench.store.locks import LOCK
from attrbench.store.shards import FEATURE, FeatureFile, Unit

_KEY = "[0-9a-f]{20}"
_SHARD = re.compile(r"items-(\d{8,})-(\d{8,})\.safetensors")
_LOCK = re.compile(rf".*{_KEY}.*{re.escape(LOCK)}")
_EARLIER_LOCK = re.compile(rf"claims/{_KEY}")
PART = re.compile(r"\.part-([1-9]\d{0,9})$")


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


@dataclass(frozen=True)
class Piece:
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
        """All files, the seal last: while it is there, what is left can still be told."""
        return (*self.data, *(() if self.sidecar is None else (self.sidecar,)))

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def last_used(self) -> float:
        """The latest time of any file; using an artifact sets that of its seal."""
        return max(file.modified for file in self.files)

    @property
    def regular(self) -> bool:
        """Whether all are files of this cache, not links to elsewhere."""
        return all(file.regular for file in self.files)

    @cached_property
    def seal(self) -> Seal | None:
        """What the seal says; None where it can't be read, or is no seal."""
        try:
            return None if self.sidecar is None or not self.regular else Seal.read(self.sidecar.path)
        except (OSError, ValueError):
            return None

    def fault(self, whole: bool = False) -> Fault | None:
        """Return what is wrong with it, by its size; with `whole` also by its checksum, which reads all of it."""
        if not self.regular or self.sidecar is None:
            return None
        try:
            seal = Seal.read(self.sidecar.path)
            if not self.data and (seal.bytes or not self.path.is_dir()):
                return Fault(self.sidecar.path, "sidecar without data")
            size = data_bytes(self.path)
            if size != seal.bytes:
                what = "truncated" if size < seal.bytes else "too long"
                return Fault(self.path, f"{what}: {size} of {seal.bytes} bytes")
            if whole and measure(self.path).sha256 != seal.sha256:
                return Fault(self.path, "checksum differs")
        except ValueError:
            return Fault(self.sidecar.path, "sidecar is damaged: it does not give size and checksum")
        except OSError as error:
            return Fault(Path(error.filename or self.path), f"cannot be read: {error.strerror}", broken=False)
        return None


@dataclass(frozen=True)
class Group:
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
        """All files, `feature.json` last: while it is there, what is left can still be told."""
        return (*chain.from_iterable(p.files for p in self.pieces), *(() if self.about is None else (self.about,)))

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def last_used(self) -> float:
        """The latest time of any file; a feature store sets that of `feature.json` when it is read."""
        return max(file.modified for file in self.files)

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


@dataclass
class Inventory:
    """Everything below a cache folder.

    Attributes:
        root: the folder.
        groups: the artifacts.
        earlier: what attrbench 0.1 kept, which this version does not read.
        parts: files and folders that processes were writing, some of them long gone.
        locks: lock files.
        other: files that nothing vouches for.
        links: what is no regular file, such as symbolic links.
        unreadable: files and folders that can't be looked at.
    """

    root: Path
    groups: list[Group] = field(default_factory=list)
    earlier: list[Piece] = field(default_factory=list)
    parts: list[Piece] = field(default_factory=list)
    locks: list[File] = field(default_factory=list)
    other: list[File] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)
    unreadable: list[Fault] = field(default_factory=list)

    @property
    def pieces(self) -> list[Piece]:
        """All artifacts of this cache; links are not among them."""
        return [piece for group in self.groups for piece in group.pieces if piece.regular]

    @property
    def rest(self) -> list[File]:
        """All regular files that belong to no artifact, of this version or an earlier one."""
        parts = chain.from_iterable(part.files for part in self.parts)
        return [file for file in (*parts, *self.locks, *self.other) if file.regular]

    @property
    def bytes(self) -> int:
        """Size of everything."""
        return sum(held.bytes for held in (*self.groups, *self.earlier, *self.rest))


def take_inventory(root: Path) -> Inventory:
    """Look through a cache folder; opens no data, and changes nothing.

    Raises:
        AttrbenchError: where there is no such folder.
    """
    if not root.is_dir():
        raise AttrbenchError(
            f"there is no cache folder {root}: name one with --cache, or fill this one with 'attrbench run'"
        )
    found = Inventory(root)
    files: list[File] = []
    parts: dict[Path, list[File]] = defaultdict(list)
    for file in _files(root, found.unreadable):
        part = next((path for path in _from(root, file.path) if PART.search(path.name)), None)
        (files if part is None else parts[part]).append(file)
        if not file.regular:
            found.links.append(file.path)
    found.parts = [Piece(path, tuple(held)) for path, held in parts.items()]
    sealed = {_data_of(file.path): file for file in files if file.path.name.endswith(SEAL)}
    data: dict[Path, list[File]] = defaultdict(list)
    abouts: dict[Path, File] = {}
    for file in files:
        owner = next((path for path in _from(root, file.path) if path in sealed), None)
        if owner is not None:
            data[owner].append(file)
        elif file.path.name == FEATURE and file.path.parent.parent == root / "features":
            abouts[file.path.parent] = file
        elif _LOCK.fullmatch(file.path.name) and file.regular and not file.bytes:
            found.locks.append(file)
        elif not file.path.name.endswith(SEAL):
            found.other.append(file)
    found.groups = _groups([Piece(path, tuple(data[path]), sidecar) for path, sidecar in sealed.items()], abouts)
    _set_earlier_apart(found)
    return found


def _from(root: Path, path: Path) -> list[Path]:
    """The folders between the cache and a file, and the file."""
    names = path.relative_to(root).parts
    return [root.joinpath(*names[: count + 1]) for count in range(len(names))]


def _data_of(sidecar: Path) -> Path:
    return sidecar.with_name(sidecar.name.removesuffix(SEAL))


def _groups(pieces: list[Piece], abouts: Mapping[Path, File]) -> list[Group]:
    """Put the shards of a feature together, and elsewhere what has one folder, kind and summary."""
    alike: dict[tuple[Path, object], list[Piece]] = {(folder, None): [] for folder in abouts}
    for piece in pieces:
        folder, seal = piece.path.parent, piece.seal
        told = None if folder in abouts or seal is None else (seal.kind, seal.summary)
        alike.setdefault((folder, told), []).append(piece)
    return [Group(folder, held, abouts.get(folder)) for (folder, _), held in alike.items()]


def _set_earlier_apart(found: Inventory) -> None:
    """Tell what version 0.1 wrote from what is somebody else's: its sidecars and its `feature.json`."""
    named = {file.path: file for file in found.other if file.regular}
    for group in [group for group in found.groups if not group.pieces and group.about and _is_earlier(group.about)]:
        assert group.about is not None
        found.groups.remove(group)
        named[group.about.path] = group.about
    for path, file in list(named.items()):
        data = [named[path.with_suffix(end)] for end in (".safetensors", ".bin") if path.with_suffix(end) in named]
        if path.suffix == ".json" and _is_earlier(file):
            found.earlier.append(Piece(path, (*data, file)))
        elif _EARLIER_LOCK.fullmatch(path.relative_to(found.root).as_posix()):
            found.earlier.append(Piece(path, (file,)))
    known = {file.path for piece in found.earlier for file in piece.files}
    found.other = [file for file in found.other if file.path not in known]


def _is_earlier(file: File) -> bool:
    """Whether a JSON file is a sidecar of version 0.1, or the description of the folder that it lies in."""
    try:
        content = json.loads(file.path.read_bytes())
        described = file.path.name == FEATURE and fingerprint(content)[:20] == file.path.parent.name
        return described or (isinstance(content, dict) and {"bytes", "sha256", "check"} <= content.keys())
    except (OSError, ValueError, RecursionError):
        return False


def _files(folder: Path, unreadable: list[Fault]) -> Iterator[File]:
    """Everything below `folder` that is not a folder, by name; without what a run removes meanwhile."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        unreadable.append(Fault(folder, f"cannot be read: {error.strerror}", broken=False))
        return
    for entry in names:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path), unreadable)
            continue
        try:
            yield look_at(Path(entry.path))
        except FileNotFoundError:
            continue
        except OSError as error:  # still a name: what belongs to it must not pass for half
            unreadable.append(Fault(Path(entry.path), f"cannot be read: {error.strerror}", broken=False))
            yield File(Path(entry.path), 0, 0.0, regular=False)


def look_at(path: Path) -> File:
    """Return what is at `path`, links not followed.

    Raises:
        OSError: where nothing is, or it can't be told.
    """
    status = path.lstat()
    regular = stat.S_ISREG(status.st_mode)
    return File(path, status.st_size if regular else 0, status.st_mtime, regular)
