"""What lies in a cache folder, and what of it is not whole.

No symbolic link below the folder is followed: what it leads to belongs to someone else.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

from pydantic import BaseModel

from attrbench.errors import AttrbenchError
from attrbench.files import sha256_of
from attrbench.store.checksums import ImageSeal, IndexSeal, Seal
from attrbench.store.fingerprint import fingerprint
from attrbench.store.shards import Sidecar, Unit

_KEY = re.compile(r"[0-9a-f]{20}")
_SHARD = re.compile(r"items-(\d{8,})-(\d{8,})")
_INDEX = re.compile(r"(faiss|hnsw)-[0-9a-f]{20}")
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
    """A shard, an index file, a set of queries or pictures of a retrained model, with its sidecar.

    At least one of the two is there.

    Attributes:
        path: of the data.
        data, sidecar: None where it is missing.
        kind: what the sidecar must be.
    """

    path: Path
    data: File | None
    sidecar: File | None
    kind: type[Seal]

    @property
    def files(self) -> tuple[File, ...]:
        """What is there, the sidecar first: without it the data counts for nothing."""
        return tuple(file for file in (self.sidecar, self.data) if file is not None)

    @property
    def bytes(self) -> int:
        """Size of both files."""
        return sum(file.bytes for file in self.files)

    @property
    def last_used(self) -> float:
        """The later of the two files' times; an index sets that of its sidecar when it is loaded."""
        return max(file.modified for file in self.files)

    @property
    def regular(self) -> bool:
        """Whether both are files of this cache, not links to elsewhere."""
        return all(file.regular for file in self.files)

    def about(self) -> Seal:
        """The sidecar's content.

        Raises:
            OSError: where it can't be read.
            ValueError: where it is not what it should be.
        """
        return self.kind.read(self.path)

    def fault(self, whole: bool = False) -> Fault | None:
        """What is wrong with it, by its size; with `whole` also by its checksum, which reads all of it."""
        if not self.regular:
            return None
        if self.sidecar is None:
            return Fault(self.path, "data without a sidecar")
        if self.data is None:
            return Fault(self.sidecar.path, "sidecar without data")
        try:
            about, size = self.about(), self.path.stat().st_size
            if size != about.bytes:
                return Fault(
                    self.path, f"{'truncated' if size < about.bytes else 'too long'}: {size} of {about.bytes} bytes"
                )
            if whole and sha256_of(self.path) != about.sha256:
                return Fault(self.path, "checksum differs")
        except ValueError:
            return Fault(self.sidecar.path, "sidecar is damaged: it does not give size and checksum")
        except OSError as error:
            return Fault(Path(error.filename or self.path), f"cannot be read: {error.strerror}", broken=False)
        return None


@dataclass(frozen=True)
class StoredFeature:
    """The folder of a feature store.

    Attributes:
        folder: where it is.
        about: `feature.json`.
        pieces: its shards.
    """

    folder: Path
    about: File | None
    pieces: list[Piece]

    @property
    def files(self) -> tuple[File, ...]:
        """All files, `feature.json` last: while it is there, what is left can still be told."""
        last = () if self.about is None else (self.about,)
        return (*chain.from_iterable(piece.files for piece in self.pieces), *last)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def last_used(self) -> float:
        """The latest time of any file; a store sets that of `feature.json` when it is read."""
        return max(file.modified for file in self.files)

    @cached_property
    def description(self) -> Mapping[str, object]:
        """What `feature.json` says; empty where it does not say it of this folder."""
        return self._about[0]

    @property
    def about_fault(self) -> Fault | None:
        """What is wrong with `feature.json`, which is for people and `attrbench cache`: runs don't read it."""
        return self._about[1]

    @cached_property
    def _about(self) -> tuple[Mapping[str, object], Fault | None]:
        if self.about is None or not self.about.regular:
            return {}, None
        try:
            content = json.loads(self.about.path.read_bytes())
            if isinstance(content, dict) and fingerprint(content)[:20] == self.folder.name:
                return content, None
        except OSError as error:
            return {}, Fault(self.about.path, f"cannot be read: {error.strerror}", broken=False)
        except (ValueError, RecursionError):
            pass  # no JSON at all
        return {}, Fault(self.about.path, "is not the description of this folder (runs don't read it)", broken=False)

    @cached_property
    def _judged(self) -> list[tuple[Piece, Fault | None]]:
        return [(piece, piece.fault()) for piece in self.pieces if piece.regular]

    @property
    def faults(self) -> list[Fault]:
        """What is wrong with the shards, by their sizes."""
        return [fault for _, fault in self._judged if fault is not None]

    @property
    def done(self) -> list[Unit]:
        """The shards whose size is right."""
        return sorted(_unit(piece) for piece, fault in self._judged if fault is None)

    @property
    def items(self) -> int:
        """Number of items in the shards that are done; each counts once, however the shards overlap."""
        end = total = 0
        for unit in self.done:
            total += max(0, unit.last - max(unit.first, end))
            end = max(end, unit.last)
        return total

    @property
    def words(self) -> str:
        """What the feature is, such as `sketch v=4096, T=5, noise=per-item`."""
        text = self.description.get("summary")
        return str(text) if text else "no feature.json that tells"

    @property
    def dtype(self) -> str:
        """How the rows are stored; empty where that is unknown."""
        return str(self.description.get("dtype", ""))


@dataclass
class Inventory:
    """Everything below a cache folder.

    Attributes:
        root: the folder.
        features, indexes: feature stores and index files.
        queries: sets of generated queries and pictures of retrained models; their files are among `other` too.
        sums: of unfinished Gram matrices; likewise.
        images: files of decoded images; likewise.
        parts: what processes were writing, some of them long gone.
        claims: lock files.
        other: all other regular files: generated queries, batch sizes, what methods and tasks keep.
        links: symbolic links and other things that are no regular files.
        unreadable: folders that can't be looked into.
    """

    root: Path
    features: list[StoredFeature] = field(default_factory=list)
    indexes: list[Piece] = field(default_factory=list)
    queries: list[Piece] = field(default_factory=list)
    sums: list[Piece] = field(default_factory=list)
    images: list[Piece] = field(default_factory=list)
    parts: list[File] = field(default_factory=list)
    claims: list[File] = field(default_factory=list)
    other: list[File] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)
    unreadable: list[Fault] = field(default_factory=list)

    @property
    def pieces(self) -> list[Piece]:
        """All shards, index files, queries, sums and decoded images of this cache; links are not among them."""
        shards = chain.from_iterable(feature.pieces for feature in self.features)
        return [piece for piece in chain(shards, self.indexes, self.queries, self.sums, self.images) if piece.regular]

    @property
    def rest(self) -> list[File]:
        """All regular files that belong to neither a feature store nor an index."""
        return [file for file in (*self.other, *self.parts, *self.claims) if file.regular]

    @property
    def bytes(self) -> int:
        """Size of everything."""
        stored = sum(feature.bytes for feature in self.features) + sum(piece.bytes for piece in self.indexes)
        return stored + sum(file.bytes for file in self.rest)


def take_inventory(root: Path) -> Inventory:
    """Looks through a cache folder; opens no data, and changes nothing.

    Raises:
        AttrbenchError: where there is no such folder.
    """
    if not root.is_dir():
        raise AttrbenchError(
            f"there is no cache folder {root}: name one with --cache, or fill this one with 'attrbench run'"
        )
    found = Inventory(root)
    stores: dict[Path, list[File]] = defaultdict(list)
    methods: dict[Path, list[File]] = defaultdict(list)
    for file in _files(root, found.unreadable):
        parent = file.path.parent
        match file.path.relative_to(root).parts:
            case (*_, name) if PART.search(name):
                found.parts.append(file)
            case ("features", key, _) if _KEY.fullmatch(key):
                stores[parent].append(file)
            case ("methods", _, _):
                methods[parent].append(file)
            case ("claims", key) if _KEY.fullmatch(key):
                found.claims.append(file)
            case _:
                found.other.append(file)
        if not file.regular:
            found.links.append(file.path)
    for folder, files in stores.items():
        _add_feature(found, folder, files)
    for folder, files in methods.items():
        _add_indexes(found, folder, files)
    found.queries = [piece for kind in ("queries", "retrained") for piece in _pieces(found, kind, ".safetensors", Seal)]
    found.sums = _pieces(found, "grams", ".safetensors", Seal)
    found.images = _pieces(found, "images", ".bin", ImageSeal)
    return found


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
    """What is at `path`, links not followed.

    Raises:
        OSError: where nothing is, or it can't be told.
    """
    status = path.lstat()
    regular = stat.S_ISREG(status.st_mode)
    return File(path, status.st_size if regular else 0, status.st_mtime, regular)


def _add_feature(found: Inventory, folder: Path, files: Sequence[File]) -> None:
    named = {file.path.name: file for file in files}
    about = named.pop("feature.json", None)
    pieces = []
    for stem in sorted({Path(name).stem for name in named if _SHARD.fullmatch(Path(name).stem)}):
        data, sidecar = named.pop(f"{stem}.safetensors", None), named.pop(f"{stem}.json", None)
        if data is not None or sidecar is not None:
            pieces.append(Piece(folder / f"{stem}.safetensors", data, sidecar, Sidecar))
    if about is not None or pieces:
        found.features.append(StoredFeature(folder, about, pieces))
    found.other.extend(named.values())


def _add_indexes(found: Inventory, folder: Path, files: Sequence[File]) -> None:
    """A method keeps what it likes in its folder: an index is what bears the name of one of ours, or has a sidecar."""
    named = {file.path.name: file for file in files}
    for stem in sorted({Path(name).stem for name in named if Path(name).suffix in (".bin", ".json")}):
        data, sidecar = named.get(f"{stem}.bin"), named.get(f"{stem}.json")
        piece = Piece(folder / f"{stem}.bin", data, sidecar, IndexSeal)
        if piece.files and (_INDEX.fullmatch(stem) or _has_sidecar(piece)):
            found.indexes.append(piece)
            named = {name: file for name, file in named.items() if file not in piece.files}
    found.other.extend(named.values())


def _pieces(found: Inventory, folder: str, suffix: str, kind: type[Seal]) -> list[Piece]:
    """The sealed files in a folder at the top of the cache."""
    named = {file.path.name: file for file in found.other if file.path.parent == found.root / folder}
    pieces = []
    for stem in sorted({Path(name).stem for name in named}):
        data, sidecar = named.get(f"{stem}{suffix}"), named.get(f"{stem}.json")
        if data is not None or sidecar is not None:
            pieces.append(Piece(found.root / folder / f"{stem}{suffix}", data, sidecar, kind))
    return pieces


def _has_sidecar(piece: Piece) -> bool:
    if piece.data is None or piece.sidecar is None or not piece.regular:
        return False
    try:
        piece.about()
    except (OSError, ValueError):
        return False
    return True


def _unit(piece: Piece) -> Unit:
    first, last = piece.path.stem.split("-")[1:]
    return Unit(int(first), int(last))


def _unusual(model: BaseModel, without: set[str]) -> list[str]:
    """`name=value` of every field that is not at its default."""
    fields = {name: known.default for name, known in type(model).model_fields.items() if name not in without}
    return [f"{name}={getattr(model, name)}" for name, default in fields.items() if getattr(model, name) != default]
