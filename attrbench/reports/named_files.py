"""Files that a user names for pictures and pages: where they may be written, and how they are saved.

A file that is there is replaced only where the user says so, and a picture that was asked about never.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from attrbench.data.image_folder import missing_folder
from attrbench.errors import AttrbenchError, UsageError
from attrbench.files import write_atomically

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""Format by the ending of a picture's file name."""
PAGES = (".html",)
"""Endings of a page's file name."""


def encoded(picture: Image.Image, image_format: str = "PNG") -> bytes:
    """Return an image as the bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **({"quality": 92} if image_format in ("JPEG", "WEBP") else {}))
    return buffer.getvalue()


def encoded_for(picture: Image.Image, path: Path) -> bytes:
    """Return an image in the format that the ending of a path says."""
    return encoded(picture, FORMATS[path.suffix.lower()])


def check_file(
    option: str, path: Path, force: bool, endings: Iterable[str] = FORMATS, asked: Sequence[Path] = ()
) -> None:
    """Raise an error if a picture or page can't be written to a path that the user gave, or would replace a file.

    Args:
        option: with which the user gave it, such as `--sheet`.
        path: as the user gave it.
        force: whether a file that is there may be replaced.
        endings: those that its name may have.
        asked: the pictures to attribute, which are never replaced.

    Raises:
        UsageError: one line that says what to do.
    """
    if path.suffix.lower() not in endings:
        kind = "page" if endings == PAGES else "picture"
        raise UsageError(f"{option} {path}: a {kind}'s name is needed, ending in {', '.join(endings)}")
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: {missing_folder(path.parent)}")
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder: name a file in it, such as {path / f'name{path.suffix}'}")
    if not path.exists():
        return
    if any(image.exists() and image.samefile(path) for image in asked):
        raise UsageError(f"{option} {path} is the picture to attribute: name another file")
    if not force:
        raise UsageError(_is_there(option, path, path))


def write_file(option: str, path: Path, content: bytes, force: bool) -> Path:
    """Write a picture or page to a path that the user gave, and return the path.

    Args:
        option: with which the user gave it.
        path: as the user gave it.
        content: of the file.
        force: whether a file that is there may be replaced.

    Raises:
        UsageError: where a file is there, and must not be replaced.
        AttrbenchError: where the file can't be written.
    """
    if path.exists() and not force:
        raise UsageError(_is_there(option, path, path))
    try:
        write_atomically(path, content)
    except OSError as error:
        raise AttrbenchError(f"cannot write {path} ({option}): {error.strerror}") from None
    return path


def _is_there(option: str, path: Path, file: Path) -> str:
    what = f"{path} is" if file == path else f"{path}: {file} is"
    return f"{option} {what} there already: name another file, or replace it with --force"


def page_paths(path: Path, pages: int, after: int | None = None) -> list[Path]:
    """Return the files of a contact sheet's pages: the path itself for one, else NAME-1, NAME-2, ...

    Args:
        path: of the sheet.
        pages: their number.
        after: pages that were written before; None where these are all.
    """
    if pages == 1 and after is None:
        return [path]
    first = 1 + (after or 0)
    return [path.with_stem(f"{path.stem}-{number}") for number in range(first, first + pages)]


def write_sheet(sheet: Sequence[Image.Image], path: Path, force: bool, after: int | None = None) -> list[Path]:
    """Write the pages of a contact sheet and return their paths.

    Args:
        sheet: the pages.
        path: of the sheet, as the user gave it.
        force: whether files that are there may be replaced.
        after: see `page_paths`.

    Raises:
        UsageError: where one is there already, and must not be replaced; none is written then.
        AttrbenchError: where a file can't be written.
    """
    paths = page_paths(path, len(sheet), after)
    there = next((page for page in paths if page.exists()), None)
    if there is not None and not force:
        raise UsageError(_is_there("--sheet", path, there))
    return [write_file("--sheet", page, encoded_for(sheet[number], page), force) for number, page in enumerate(paths)]
