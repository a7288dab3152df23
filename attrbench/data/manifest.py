"""The listing of an image data set: names, captions and groups of its items, before images are decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from PIL import Image

from attrbench.data.content_digests import Contents
from attrbench.errors import AttrbenchError

CAPTION_COLUMNS = ("text", "caption")
"""Column names that are taken for captions if none is given, in this order."""
GROUP_COLUMN = "group"


@dataclass(frozen=True)
class Listing:
    """The items of an image data set in order: names, captions and groups, and a function that opens each image.

    Attributes:
        where: the data set in words, for messages.
        names: n names: path below the folder, or `row i`.
        captions: n captions, or None.
        groups: n group names, or None.
        stamp: JSON value that changes when the pixels may have changed: file sizes and times, or the fingerprint of
            the data set.
        open: returns the image of an item, which Pillow has not decoded yet.
        contents: the items' encoded bytes, by which decoded images are found.
    """

    where: str
    names: Sequence[str]
    captions: Sequence[str] | None
    groups: Sequence[str] | None
    stamp: object
    open: Callable[[int], Image.Image]
    contents: Contents

    def __len__(self) -> int:
        return len(self.names)


def choose_caption_column(columns: Sequence[str], name: str | None, where: str) -> str | None:
    """Return the column with the captions: `name` if given, else a column called `text` or `caption`, else None."""
    if name is not None:
        return need_column(columns, name, "caption_column", where)
    return next((column for column in CAPTION_COLUMNS if column in columns), None)


def choose_group_column(columns: Sequence[str], name: str | None, where: str) -> str | None:
    """Return the column with the items' groups: `name` if given, else a column called `group`, else None."""
    if name is not None:
        return need_column(columns, name, "group_column", where)
    return GROUP_COLUMN if GROUP_COLUMN in columns else None


def need_column(columns: Iterable[str], name: str, option: str, where: str) -> str:
    """Return the column name if the table has that column, else raise an error that suggests the nearest one.

    Args:
        columns: the columns that the table has.
        name: the column that is needed.
        option: the option that names it, for the message.
        where: the table in words, for the message.

    Raises:
        AttrbenchError: where there is no such column; names the most similar column, or all.
    """
    known = [column for column in columns if column]
    if name in known:
        return name
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known) or 'none'}"
    raise AttrbenchError(f"{where} has no column '{name}' ({option}): {hint}")
