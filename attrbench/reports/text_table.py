"""Plain tables of text for a terminal: columns aligned, none of them broken."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.cells import cell_len


def text_table(titles: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Return the lines of a table: titles, then rows; columns without any text are left out.

    Args:
        titles: of the columns.
        rows: cells, as many as titles.
        left: places of the columns that begin at the left; numbers end at the right.
    """
    places = [place for place in range(len(titles)) if any(row[place] for row in rows)]
    lines = []
    widths = {place: max(cell_len(row[place]) for row in [titles, *rows]) for place in places}
    for row in [titles, *rows]:
        cells = []
        for place in places:
            gap = " " * (widths[place] - cell_len(row[place]))
            cells.append(row[place] + gap if place in left else gap + row[place])
        lines.append("  ".join(cells).rstrip())
    return lines
