"""What a source of images gives before a single one is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from PIL import Image

from attrbench.errors import AttrbenchError

CAPTION_COLUMNS = ("text", "caption")
"""Taken where no column is named: what `datasets` and most training scripts call it, and the plain word."""
GROUP_COLUMN = "group"


@dataclass(frozen=True)
class Listing:
    """The items of a source, in their order.

    Attributes:
        where: the source, in words.
        names: what each item is called: the file's name below the folder, or the row.
        captions: None where there are none.
        groups: None where there are none.
        stamp: decides the pixels: sizes and times of files, or the data set's own fingerprint.
        open: gives the image of an item, which Pillow has not decoded yet.
    """

    where: str
    names: Sequence[str]
    captions: Sequence[str] | None
    groups: Sequence[str] | None
    stamp: object
    open: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.names)


def choose_caption_column(columns: Sequence[str], wanted: str | None, where: str) -> str | None:
    """The column of captions; None where none is named and there is none of the usual ones."""
    if wanted is not None:
        return need_column(columns, wanted, "caption_column", where)
    return next((column for column in CAPTION_COLUMNS if column in columns), None)


def choose_group_column(columns: Sequence[str], wanted: str | None, where: str) -> str | None:
    """The column of groups; `group`, where none is named and there is one."""
    if wanted is not None:
        return need_column(columns, wanted, "group_column", where)
    return GROUP_COLUMN if GROUP_COLUMN in columns else None


def need_column(columns: Iterable[str], wanted: str, option: str, where: str) -> str:
    """`wanted`, if it is a column.

    Raises:
        AttrbenchError: one line with the nearest column, or all of them.
    """
    known = [column for column in columns if column]
    if wanted in known:
        return wanted
    near = get_close_matches(wanted, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known) or 'none'}"
    raise AttrbenchError(f"{where} has no column '{wanted}' ({option}): {hint}")
