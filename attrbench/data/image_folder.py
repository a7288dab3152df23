"""Reading of image folders in the `imagefolder` format of the library `datasets`, without that library.

With `metadata.csv` or `metadata.jsonl`, in the folder or in folders below it, the items are its rows in their order,
and `file_name` is relative to it. Without metadata, the items are all images below the folder, sorted by name; the
group of an image is the name of its subfolder, if there are several.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from PIL import Image

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.data.content_digests import Contents, digest_of, file_state
from attrbench.data.manifest import Listing, choose_caption_column, choose_group_column
from attrbench.data.metadata import FILE_COLUMN, Row, metadata_files, read_metadata
from attrbench.data.pixels import SUFFIXES
from attrbench.errors import AttrbenchError

log = logging.getLogger("attrbench.data")


@dataclass(frozen=True)
class _File:
    """An image file with its caption and group; `name` is the path relative to the data set's folder."""

    name: str
    path: Path
    caption: str = ""
    group: str = ""


def list_folder(folder: Path, source: DatasetSource) -> Listing:
    """Return the listing of a folder's images, with captions and groups from metadata files or subfolder names.

    Raises:
        AttrbenchError: where there is no image, metadata is wrong, or a link leads out of the folder; names the file
            and row.
    """
    folder = _split(folder, source.split)
    inside = _Inside(folder, source.follow_links)
    below = list(_walk(folder, inside))
    metadata = [file for directory in below for file in metadata_files(directory)]
    if metadata:
        files, captioned, grouped = _from_metadata(folder, metadata, source)
        unnamed = sum(1 for directory in below for _ in _images(directory)) - len(files)
        if unnamed > 0:
            log.warning("%d of the images in %s are not named in its metadata and are left out", unnamed, folder)
    else:
        _refuse_columns(folder, source)
        files = _without_metadata(folder, below)
        captioned, grouped = False, len({file.group for file in files}) > 1
    inside.check([*metadata, *(file.path for file in files)])
    if not files:
        raise AttrbenchError(f"there is no image in {folder} (looked for {', '.join(sorted(SUFFIXES))})")
    chosen = files[: source.limit]
    statuses = [file.path.stat() for file in chosen]
    return Listing(
        where=str(folder),
        names=[file.name for file in chosen],
        captions=[file.caption for file in chosen] if captioned else None,
        groups=[file.group for file in chosen] if grouped else None,
        stamp=[[file.name, status.st_size, status.st_mtime_ns] for file, status in zip(chosen, statuses, strict=True)],
        open=_Opener([file.path for file in chosen]),
        contents=Contents(
            place=str(folder.resolve()),
            states=[file_state(status) for status in statuses],
            digest=lambda index: digest_of(chosen[index].path.read_bytes()),
        ),
    )


class _Inside:
    """A folder's bounds, out of which no symbolic link in it may lead, unless that is allowed; it may be one itself."""

    def __init__(self, folder: Path, all_allowed: bool) -> None:
        self._folder = folder
        self._root = folder.resolve()
        self._all_allowed = all_allowed
        self._known: set[Path] = set()

    def check(self, files: Iterable[Path]) -> None:
        """Raise an error for a file that lies outside, or whose folder does; each folder is looked up once."""
        for file in files:
            if file.parent not in self._known:
                self.check_path(file.parent)
                self._known.add(file.parent)
            if file.is_symlink():
                self.check_path(file)

    def check_path(self, path: Path) -> None:
        """Raise an error for a file or folder that lies outside, with the link that leads there."""
        if self._all_allowed or path.resolve().is_relative_to(self._root):
            return
        link = next((above for above in (path, *path.parents) if above.is_symlink()), path)
        raise AttrbenchError(
            f"{link} is a link to {link.resolve()}, outside of {self._folder}: copy the images there, or allow such"
            " links with follow_links = true (in [train] or [queries.images] of a task file)"
        )


class _Opener:
    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __call__(self, index: int) -> Image.Image:
        return Image.open(self._paths[index])


def missing_folder(path: Path) -> str:
    """Return the error message for a missing folder, with the most similar existing name."""
    parent = path.parent
    if not parent.is_dir():
        return f"there is no folder {path}: {parent} is missing too"
    near = get_close_matches(path.name, [entry.name for entry in parent.iterdir() if entry.is_dir()], n=1, cutoff=0.6)
    return f"there is no folder {path}" + (f": did you mean {parent / near[0]}?" if near else "")


def _split(folder: Path, split: str | None) -> Path:
    if split is None:
        return folder
    if not (folder / split).is_dir():
        raise AttrbenchError(f"split '{split}': {missing_folder(folder / split)}")
    return folder / split


def _walk(folder: Path, inside: _Inside) -> Iterator[Path]:
    """Yield the folder and its subfolders, sorted by name; skips hidden and repeated ones, follows allowed links."""
    seen = set()

    def fail(error: OSError) -> None:
        raise AttrbenchError(f"cannot read {error.filename}: {error.strerror}")

    for place, folders, _ in os.walk(folder, followlinks=True, onerror=fail):
        inside.check_path(Path(place))
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(place)


def _images(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield path


def _without_metadata(folder: Path, below: Sequence[Path]) -> list[_File]:
    files = [
        _File(path.relative_to(folder).as_posix(), path, group="" if directory == folder else directory.name)
        for directory in below
        for path in _images(directory)
    ]
    return sorted(files, key=lambda file: file.name)


def _refuse_columns(folder: Path, source: DatasetSource) -> None:
    for option in ("caption_column", "group_column"):
        if getattr(source, option) is not None:
            raise AttrbenchError(
                f"{folder} has no metadata.csv or metadata.jsonl, so there is no column"
                f" '{getattr(source, option)}' ({option})"
            )


def _from_metadata(folder: Path, metadata: Sequence[Path], source: DatasetSource) -> tuple[list[_File], bool, bool]:
    """Return the images that metadata files list, and whether all of these files have captions, and groups."""
    files: dict[str, tuple[_File, str]] = {}
    captioned = grouped = True
    for path in metadata:
        columns, rows = read_metadata(path)
        caption = choose_caption_column(columns, source.caption_column, str(path))
        group = choose_group_column(columns, source.group_column, str(path))
        captioned, grouped = captioned and caption is not None, grouped and group is not None
        for row in rows:
            file = _file(folder, path.parent, row, caption, group)
            if file.name in files:
                raise AttrbenchError(f"{row.where}: {file.name} was named before ({files[file.name][1]})")
            files[file.name] = file, row.where
    return [file for file, _ in files.values()], captioned, grouped


def _file(folder: Path, beside: Path, row: Row, caption: str | None, group: str | None) -> _File:
    name = row.text(FILE_COLUMN).strip()
    relative = PurePosixPath(name)
    if not name or relative.is_absolute() or ".." in relative.parts:
        raise AttrbenchError(f"{row.where}: {FILE_COLUMN} must name a file below {beside}, not '{name}'")
    path = beside / relative
    if not path.is_file():
        near = get_close_matches(path.name, [p.name for p in _siblings(path)], n=1, cutoff=0.8)
        hint = f", but {near[0]}" if near else ""
        raise AttrbenchError(f"{row.where}: there is no file {path}{hint}")
    return _File(
        path.relative_to(folder).as_posix(),
        path,
        "" if caption is None else row.text(caption),
        "" if group is None else row.text(group),
    )


def _siblings(path: Path) -> list[Path]:
    return list(_images(path.parent)) if path.parent.is_dir() else []
