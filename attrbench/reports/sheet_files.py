"""Files of contact sheets: where they may be written, their names by page, and how they are saved."""

from __future__ import annotations

import io
from collections.abc import Sequence
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


def encoded(picture: Image.Image, image_format: str = "PNG") -> bytes:
    """Return an image as the bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **({"quality": 92} if image_format in ("JPEG", "WEBP") else {}))
    return buffer.getvalue()


def check_sheet(path: Path, force: bool, asked: Sequence[Path] = ()) -> None:
    """Raise an error if a contact sheet can't be written to a path that the user gave, or would replace a file.

    Args:
        path: as the user gave it.
        force: whether a file that is there may be replaced.
        asked: the pictures to attribute, which are never replaced.

    Raises:
        UsageError: one line that says what to do.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--sheet {path}: a picture's name is needed, ending in {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise UsageError(f"--sheet {path}: {missing_folder(path.parent)}")
    if path.is_dir():
        raise UsageError(f"--sheet {path} is a folder: name a file in it, such as {path / 'sheet.png'}")
    if not path.exists():
        return
    if any(image.exists() and image.samefile(path) for image in asked):
        raise UsageError(f"--sheet {path} is the picture to attribute: name another file")
    if not force:
        raise UsageError(f"--sheet {path} is there already: name another file, or replace it with --force")


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
        raise UsageError(f"--sheet {path}: {there} is there already: name another file, or replace it with --force")
    for number, page in enumerate(paths):
        try:
            write_atomically(page, encoded(sheet[number], FORMATS[path.suffix.lower()]))
        except OSError as error:
            raise AttrbenchError(f"cannot write the contact sheet {page}: {error.strerror}") from None
    return paths
