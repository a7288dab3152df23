"""A suite's table as text for a terminal: columns that do not fit go below, and no word or number is broken."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.cells import cell_len

from attrbench.suites.table import Cell, Column, Part, SuiteTable
from attrbench.text import plain

GAP = "  "
TITLE = 9
"""Characters up to which the title of a column stands in one line, even where its values are narrower."""
NAME = 16
"""Characters that names of rows get at least, where they need as many."""


def to_text(table: SuiteTable, width: int | None) -> str:
    """Return a table as text without terminal escapes.

    Args:
        table: the table.
        width: characters of a line; None for as many as it needs.
    """
    lines = [*_prose(table.title, width), ""]
    for text in table.about:
        lines += _prose(text, width)
    for part in table.parts:
        lines += ["", *_prose(part.title, width)] if part.title else [""]
        lines += _part(part, table.interval, width)
    lines += [""] if table.notes else []
    for note in table.notes:
        lines += _prose(note, width)
    return "".join(f"{plain(line)}\n" for line in lines)


def _prose(text: str, width: int | None) -> list[str]:
    """Return a text in lines that are broken between words."""
    if width is None:
        return [text]
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _part(part: Part, interval: str, width: int | None) -> list[str]:
    """Return the lines of a part: a table for each band of columns that fits the width."""
    kinds = _kinds(part, interval)
    widths = [_width(part, place) for place in range(len(part.columns))]
    beside = len(GAP) + _kind_width(kinds) if len(kinds) > 1 else 0
    bands = list(_bands(part.columns, widths, _narrowest(part) + beside, width))
    names = _name_width(part, beside + max(_room(widths, band) for band in bands), width)
    lines: list[str] = []
    for places in bands:
        lines += [""] if lines else []
        columns = [part.columns[place] for place in places]
        own = _fitted(columns, [widths[place] for place in places])
        lines += _heads(columns, own, names + beside)
        for line in part.lines:
            cells = [line.cells[place] for place in places]
            if any(map(_has_value, cells)) or not any(map(_has_value, line.cells)):
                lines += _rows(line.name, cells, own, kinds, names)
    return lines


def _fitted(columns: Sequence[Column], widths: Sequence[int]) -> list[int]:
    """Return the widths of a band's columns: the last of a group is widened where a word of its name needs room."""
    fitted = list(widths)
    for name, members in groupby(range(len(columns)), key=lambda place: columns[place].group):
        places = list(members)
        word = max(map(cell_len, [*name.split(), ""]))
        fitted[places[-1]] += max(0, word + len(GAP) - _room(widths, places))
    return fitted


def _has_value(cell: Cell) -> bool:
    return bool(cell.paper or cell.ours)


def _kinds(part: Part, interval: str) -> dict[str, str]:
    """Return the name of each kind of value that a part has, as the field of its cells."""
    names = {"paper": "paper", "ours": "ours", "interval": interval}
    cells = [cell for line in part.lines for cell in line.cells]
    return {field: name for field, name in names.items() if any(getattr(cell, field) for cell in cells)}


def _kind_width(kinds: dict[str, str]) -> int:
    """Return the width of the column that names the kinds of values."""
    return max(map(cell_len, [*kinds.values(), ""]))


def _width(part: Part, place: int) -> int:
    """Return the width of a column: that of its longest value, or word of its title."""
    cells, column = [line.cells[place] for line in part.lines], part.columns[place]
    texts = [text for cell in cells for text in (cell.paper, cell.ours, cell.interval)]
    return max(*map(cell_len, [*texts, *column.title.split(), ""]), min(cell_len(column.title), TITLE))


def _narrowest(part: Part) -> int:
    """Return the least width of the names of rows: their longest word, and `NAME` where they are wider."""
    names = [line.name for line in part.lines]
    words = [cell_len(word) for name in names for word in name.split()]
    return max([*words, min(NAME, max(map(cell_len, [*names, ""]))), 0])


def _name_width(part: Part, others: int, width: int | None) -> int:
    """Return the width of the names of rows, which are wrapped where the columns would not fit beside them."""
    longest = max(map(cell_len, [*(line.name for line in part.lines), ""]))
    return longest if width is None else max(_narrowest(part), min(longest, width - others))


def _room(widths: Sequence[int], places: Sequence[int]) -> int:
    """Return the characters that columns take with the gaps before them."""
    return sum(len(GAP) + widths[place] for place in places)


def _bands(columns: Sequence[Column], widths: Sequence[int], before: int, width: int | None) -> Iterator[list[int]]:
    """Yield the places of the columns that stand beside each other; a group is kept together where it fits."""
    band: list[int] = []
    for _, members in groupby(range(len(columns)), key=lambda place: columns[place].group or place):
        group = list(members)
        whole = width is None or before + _room(widths, group) <= width
        for part in [group] if whole else [[place] for place in group]:
            if band and width is not None and before + _room(widths, [*band, *part]) > width:
                yield band
                band = []
            band += part
    yield band


def _heads(columns: Sequence[Column], widths: Sequence[int], before: int) -> Iterator[str]:
    """Yield the lines above a band: the names of groups over their columns, the titles, and a rule."""
    groups = []
    for name, members in groupby(range(len(columns)), key=lambda place: columns[place].group):
        room = _room(widths, list(members)) - len(GAP)
        groups.append([line + " " * (room - cell_len(line)) for line in _wrapped(name, room)] if name else [" " * room])
    if any(column.group for column in columns):
        yield from _beside(groups, before)
    titles = [_wrapped(column.title, own) for column, own in zip(columns, widths, strict=True)]
    yield from _beside(
        [[" " * (own - cell_len(line)) + line for line in title] for title, own in zip(titles, widths, strict=True)],
        before,
    )
    yield "─" * (before + _room(widths, range(len(widths))))


def _beside(texts: Sequence[Sequence[str]], before: int) -> Iterator[str]:
    """Yield lines in which texts of several lines, each of one width, stand beside each other."""
    for number in range(max(map(len, texts))):
        cells = [text[number] if number < len(text) else " " * cell_len(text[0]) for text in texts]
        yield (" " * before + "".join(GAP + cell for cell in cells)).rstrip()


def _rows(title: str, cells: Sequence[Cell], widths: Sequence[int], kinds: dict[str, str], names: int) -> Iterator[str]:
    """Yield the lines of a row: one for each kind of value that it has, the name beside them."""
    own = [kind for kind in kinds if any(getattr(cell, kind) for cell in cells)] or [*kinds][:1]
    name, beside = _wrapped(title, names), _kind_width(kinds) if len(kinds) > 1 else 0
    for number in range(max(len(own), len(name))):
        start = name[number] if number < len(name) else ""
        start += " " * (names - cell_len(start))
        if number < len(own):
            start += GAP + kinds[own[number]] + " " * (beside - cell_len(kinds[own[number]])) if beside else ""
            texts = (getattr(cell, own[number]) for cell in cells)
            start += "".join(map(_right, texts, widths))
        yield start.rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 1), break_long_words=False, break_on_hyphens=False) or [""]


def _right(text: str, width: int) -> str:
    return GAP + " " * (width - cell_len(text)) + text
