"""The index of a cache folder: which artifacts, leftovers, locks and unknown files it contains.

No symbolic link below the folder is followed: its target does not belong to the cache.
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
from attrbench.store.cache_entries import CacheEntry, Fault, File, Group, file_at
from attrbench.store.checksums import SEAL
from attrbench.store.fingerprint import fingerprint
from attrbench.store.locks import LEASE, LOCK
from attrbench.store.shards import FEATURE

_KEY = "[0-9a-f]{20}"
_CLAIM = re.compile(rf"(?:[a-z]+-)?{_KEY}(?:-\d+)?(?:\.[a-z]+)?(?:{re.escape(LOCK)}|{re.escape(LEASE)})")
_EARLIER_LOCK = re.compile(rf"claims/{_KEY}")
PART = re.compile(r"\.part-([1-9]\d{0,9})(?:-[0-9a-f]{16})?$")
"""End of a part file's name: the id of its process, and a random number (version 0.1 had none)."""


@dataclass
class CacheIndex:
    """The contents of a cache folder: artifacts, leftovers, lock files, unknown files and faults.

    Attributes:
        root: the cache folder.
        groups: the artifacts, in groups of equal folder, kind and summary.
        earlier: data of attrbench 0.1, which this version does not read, one entry for each folder.
        parts: files and folders that a process is writing or left unfinished.
        locks: files of locks and leases.
        other: files that belong to no artifact.
        links: symbolic links and other irregular files.
        unreadable: faults of files and folders that can't be read.
    """

    root: Path
    groups: list[Group] = field(default_factory=list)
    earlier: list[CacheEntry] = field(default_factory=list)
    parts: list[CacheEntry] = field(default_factory=list)
    locks: list[File] = field(default_factory=list)
    other: list[File] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)
    unreadable: list[Fault] = field(default_factory=list)

    @property
    def entries(self) -> list[CacheEntry]:
        """Return all artifacts of the cache, except those with symbolic links among their files."""
        return [entry for group in self.groups for entry in group.entries if entry.regular]

    @property
    def rest(self) -> list[File]:
        """Return all regular files of the cache that belong to no artifact: parts, locks and unknown files."""
        parts = chain.from_iterable(part.files for part in self.parts)
        return [file for file in (*parts, *self.locks, *self.other) if file.regular]

    @property
    def bytes(self) -> int:
        """Return the total size of the cache's files in bytes."""
        kept: list[Group | CacheEntry | File] = [*self.groups, *self.earlier, *self.rest]
        return sum(each.bytes for each in kept)


def index_cache(root: Path) -> CacheIndex:
    """Scan a cache folder and return its contents; reads seals but no data, and changes nothing.

    Raises:
        AttrbenchError: where the folder does not exist.
    """
    if not root.is_dir():
        raise AttrbenchError(
            f"there is no cache folder {root}: name one with --cache, or fill this one with 'attrbench run'"
        )
    index = CacheIndex(root)
    files: list[File] = []
    parts: dict[Path, list[File]] = defaultdict(list)
    for file in _files(root, index.unreadable):
        part = next((path for path in _from(root, file.path) if PART.search(path.name)), None)
        (files if part is None else parts[part]).append(file)
        if not file.regular:
            index.links.append(file.path)
    index.parts = [CacheEntry(path, tuple(held)) for path, held in parts.items()]
    sealed = {_data_of(file.path): file for file in files if file.path.name.endswith(SEAL)}
    data: dict[Path, list[File]] = defaultdict(list)
    abouts: dict[Path, File] = {}
    for file in files:
        owner = next((path for path in _from(root, file.path) if path in sealed), None)
        if owner is not None:
            data[owner].append(file)
        elif file.path.name == FEATURE and file.path.parent.parent == root / "features" and not _is_earlier(file):
            abouts[file.path.parent] = file
        elif _is_lock(file):
            index.locks.append(file)
        elif not file.path.name.endswith(SEAL):
            index.other.append(file)
    index.groups = _groups([CacheEntry(path, tuple(data[path]), sidecar) for path, sidecar in sealed.items()], abouts)
    _take_earlier(index)
    return index


def _from(root: Path, path: Path) -> list[Path]:
    """Return the paths of all folders between `root` and a file, outermost first, and of the file itself."""
    names = path.relative_to(root).parts
    return [root.joinpath(*names[: count + 1]) for count in range(len(names))]


def _is_lock(file: File) -> bool:
    """Return whether a file is that of a lock, which is empty, or of a lease, which names its holder."""
    name = file.path.name
    return file.regular and bool(_CLAIM.fullmatch(name)) and (name.endswith(LEASE) or not file.bytes)


def _data_of(sidecar: Path) -> Path:
    return sidecar.with_name(sidecar.name.removesuffix(SEAL))


def _groups(entries: list[CacheEntry], abouts: Mapping[Path, File]) -> list[Group]:
    """Group artifacts for listing: the shards of each feature; others by folder, kind and summary."""
    alike: dict[tuple[Path, object], list[CacheEntry]] = {(folder, None): [] for folder in abouts}
    for entry in entries:
        folder, seal = entry.path.parent, entry.seal
        told = None if folder in abouts or seal is None else (seal.kind, seal.summary)
        alike.setdefault((folder, told), []).append(entry)
    return [Group(folder, held, abouts.get(folder)) for (folder, _), held in alike.items()]


def _take_earlier(index: CacheIndex) -> None:
    """Reclassify unknown files as data of attrbench 0.1 if its metadata or lock files identify them."""
    named = {file.path: file for file in index.other if file.regular}
    held: dict[Path, list[File]] = defaultdict(list)
    for path, file in named.items():
        is_lock = _EARLIER_LOCK.fullmatch(path.relative_to(index.root).as_posix())
        if is_lock or (path.suffix == ".json" and _is_earlier(file)):
            data = [named[other] for end in (".safetensors", ".bin") if (other := path.with_suffix(end)) in named]
            held[path.parent] += [*data, file]
    index.earlier = [CacheEntry(folder, tuple(files)) for folder, files in held.items()]
    known = {file.path for files in held.values() for file in files}
    index.other = [file for file in index.other if file.path not in known]


def _is_earlier(file: File) -> bool:
    """Return whether a JSON file is metadata that attrbench 0.1 wrote beside its cached data."""
    try:
        content = json.loads(file.path.read_bytes())
        described = file.path.name == FEATURE and fingerprint(content)[:20] == file.path.parent.name
        return described or (isinstance(content, dict) and {"bytes", "sha256", "check"} <= content.keys())
    except (OSError, ValueError, RecursionError):
        return False


def _files(folder: Path, unreadable: list[Fault]) -> Iterator[File]:
    """Yield all files below `folder`, sorted by name, skipping those that vanish meanwhile."""
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
            yield file_at(Path(entry.path))
        except FileNotFoundError:
            continue
        except OSError as error:  # still a name: what belongs to it must not pass for half
            unreadable.append(Fault(Path(entry.path), f"cannot be read: {error.strerror}", broken=False))
            yield File(Path(entry.path), 0, 0.0, regular=False)
