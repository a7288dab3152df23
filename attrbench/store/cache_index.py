"""What lies in a cache folder, by what the files say of themselves.

No symbolic link below the folder is followed: what it leads to belongs to someone else.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from attrbench.errors import AttrbenchError
from attrbench.store.checksums import SEAL
from attrbench.store.fingerprint import fingerprint
from attrbench.store.locks import LOCK
from attrbench.store.pieces import Fault, File, Group, Piece, look_at
from attrbench.store.shards import FEATURE

_KEY = "[0-9a-f]{20}"
_LOCK = re.compile(rf"(?:[a-z]+-)?{_KEY}(?:-\d+)?(?:\.[a-z]+)?{re.escape(LOCK)}")
_EARLIER_LOCK = re.compile(rf"claims/{_KEY}")
PART = re.compile(r"\.part-([1-9]\d{0,9})$")


@dataclass
class Inventory:
    """Everything below a cache folder.

    Attributes:
        root: the folder.
        groups: the artifacts.
        earlier: what attrbench 0.1 kept, which this version does not read, by folder.
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
        kept: list[Group | Piece | File] = [*self.groups, *self.earlier, *self.rest]
        return sum(each.bytes for each in kept)


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
        elif file.path.name == FEATURE and file.path.parent.parent == root / "features" and not _is_earlier(file):
            abouts[file.path.parent] = file
        elif _LOCK.fullmatch(file.path.name) and file.regular and not file.bytes:
            found.locks.append(file)
        elif not file.path.name.endswith(SEAL):
            found.other.append(file)
    found.groups = _groups([Piece(path, tuple(data[path]), sidecar) for path, sidecar in sealed.items()], abouts)
    _take_earlier(found)
    return found


def _from(root: Path, path: Path) -> list[Path]:
    """Return the folders between the cache and a file, and the file."""
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


def _take_earlier(found: Inventory) -> None:
    """Move what version 0.1 wrote from `other` to `earlier`, told by its sidecars, `feature.json` and lock files."""
    named = {file.path: file for file in found.other if file.regular}
    held: dict[Path, list[File]] = defaultdict(list)
    for path, file in named.items():
        is_lock = _EARLIER_LOCK.fullmatch(path.relative_to(found.root).as_posix())
        if is_lock or (path.suffix == ".json" and _is_earlier(file)):
            data = [named[other] for end in (".safetensors", ".bin") if (other := path.with_suffix(end)) in named]
            held[path.parent] += [*data, file]
    found.earlier = [Piece(folder, tuple(files)) for folder, files in held.items()]
    known = {file.path for files in held.values() for file in files}
    found.other = [file for file in found.other if file.path not in known]


def _is_earlier(file: File) -> bool:
    """Return whether a JSON file is a sidecar of version 0.1, or the description of the folder that it lies in."""
    try:
        content = json.loads(file.path.read_bytes())
        described = file.path.name == FEATURE and fingerprint(content)[:20] == file.path.parent.name
        return described or (isinstance(content, dict) and {"bytes", "sha256", "check"} <= content.keys())
    except (OSError, ValueError, RecursionError):
        return False


def _files(folder: Path, unreadable: list[Fault]) -> Iterator[File]:
    """Yield everything below `folder` that is not a folder, by name; without what a run removes meanwhile."""
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
