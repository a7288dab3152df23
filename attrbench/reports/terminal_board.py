"""Leaderboards on a terminal: as many columns as fit its width, and no word, number or interval broken."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from attrbench.reports.columns import (
    Column,
    cells,
    filled_columns,
    header,
    reference_cells,
    request_columns,
    without_interval,
)
from attrbench.reports.ranking import Row, Table
from attrbench.reports.table_cells import caption, shown

SHOWN = 500
"""Ranked runs, and others, that a table on a terminal shows at most."""
ORDER = (
    "rank",
    "method",
    "score",
    "bar",
    "criteria",
    "size",
    "if-kept",
    "index",
    "query-p50",
    "query-p95",
    "amortized",
    "machine",
    "ann-recall",
    "pareto",
)
"""The columns of a terminal where none are named, from left to right."""
MUST = ("method", "score", "metric", "rank")
"""Which of them get room first."""
NEXT = (
    "size",
    "query-p50",
    "pareto",
    "amortized",
    "ann-recall",
    "bar",
    "if-kept",
)
"""Which get room after these and after the other criteria; all others come last."""
GAP = "  "
NARROWEST = 20
"""Characters that the column of methods gets at least."""
NARROWED = 28
"""Characters that labels of methods keep where room is made for the other criteria."""
NARROW = 56
"""Width of a terminal below which scores are shown without their intervals."""
TUNED = " †"
LEFT = ("method", "score", "bar")
"""Columns that begin at the left, so that values stand below each other whether they have an interval or not."""


@dataclass(frozen=True)
class Line:
    """A row of a terminal table: its cells and the style that it is printed in."""

    cells: Sequence[str]
    style: str = ""


@dataclass(frozen=True)
class Body:
    """A table's titles, its lines (ranked runs, references, runs below the line), and the widths of its cells."""

    titles: Sequence[str]
    ranked: Sequence[Line]
    references: Sequence[Line]
    below: Sequence[Line]
    widths: Sequence[int]


def to_rich(
    table: Table, width: int | None = None, columns: Sequence[str] = (), rows: Sequence[Row] | None = None
) -> RenderableType:
    """Return one leaderboard as text that rich prints on a terminal.

    Args:
        table: the leaderboard.
        width: characters of a line; None for as many as it needs.
        columns: names of the columns; by default those of `ORDER`. Empty ones, and those without room, are left out.
        rows: the ranked runs in the order to show; by default by rank.
    """
    ranked = table.ranked if rows is None else rows
    usual = [name.replace("score", "metric") for name in ORDER] if width is not None and width < NARROW else ORDER
    wanted = filled_columns(table, request_columns(columns, [table], usual))
    body = _body(table, ranked, wanted)
    criteria = [place for place, column in enumerate(wanted) if column.metric is not None]
    names = [column.name for column in wanted]
    first = names if columns else [*MUST, *(names[place] for place in criteria), *NEXT, *names]
    meant = range(len(names)) if columns else criteria
    layout = _layout(names, body, width, first)
    if width is not None and width >= NARROW and not set(meant) <= set(layout.places):
        body = _body(table, ranked, [without_interval(column) for column in wanted])
        layout = _layout(names, body, width, first, meant)
    rule = Text(_rule(layout), no_wrap=True, overflow="ignore")
    titles = _title_text(body.titles, layout)
    parts = [_wrapped(_title(table), width, "bold"), titles, rule]
    parts += [_text(line, layout) for line in [*body.ranked, *body.references]] + [rule] * bool(body.below)
    parts += [_text(line, layout) for line in body.below]
    parts += [_wrapped(line, width) for line in _why_below(table)]
    return Group(*parts, Text(), *(_wrapped(line, width, "dim") for line in _notes(table, ranked, wanted, layout)))


def _body(table: Table, ranked: Sequence[Row], columns: Sequence[Column]) -> Body:
    """Return the lines of a table with these columns: of the ranked runs, of references, and of the others."""
    lines = [Line(_cells(table, row, columns), "bold" if row.rank == 1 else "") for row in ranked[:SHOWN]]
    references = [Line(texts, "dim") for texts in reference_cells(table, columns)]
    below = [Line(_cells(table, row, columns), "dim") for row in table.below[:SHOWN]]
    every = [line.cells for line in [*lines, *references, *below]]
    widths = [max((cell_len(cells[place]) for cells in every), default=0) for place in range(len(columns))]
    return Body(_titles(table, columns, widths), lines, references, below, widths)


def _wrapped(line: str, width: int | None, style: str = "") -> Text:
    """Return a line of prose, broken between words where a width is given."""
    lines = [line] if width is None else textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)
    return Text("\n".join(lines), style=style, no_wrap=True, overflow="ignore")


def _title(table: Table) -> str:
    return f"{shown(table.task)} v{table.version}, ranked by {shown(table.metric)}"


def _titles(table: Table, columns: Sequence[Column], widths: Sequence[int]) -> list[str]:
    """Return the columns' titles; that of the metric that ranks is short where its name, said above, is too wide."""
    titles = header(table, columns)
    for place, (column, width) in enumerate(zip(columns, widths, strict=True)):
        if column.name in ("metric", "score") and cell_len(titles[place]) > width:
            titles[place] = f"score {titles[place][-1]}"
    return titles


def _cells(table: Table, row: Row, columns: Sequence[Column]) -> list[str]:
    """Return a run's cells; a mark stands for the word `(tuned)`, which would take the room of a column."""
    return [
        shown(row.record.method.label) + TUNED * (row.record.tuned is not None) if column.name == "method" else text
        for column, text in zip(columns, cells(table, row, columns), strict=True)
    ]


@dataclass(frozen=True)
class Layout:
    """The columns of a table that fit a line: their indices, from left to right, their widths and alignment."""

    places: Sequence[int]
    widths: Sequence[int]
    lefts: Sequence[bool]


def _layout(
    names: Sequence[str], body: Body, width: int | None, first: Sequence[str], narrowed: Sequence[int] = ()
) -> Layout:
    """Return which columns fit a width: those of `first` in turn, while there is room, then the others.

    The column of methods is narrowed where it leaves no room for rank and score, and somewhat for the columns at the
    places `narrowed`, whose titles are broken; labels and titles then take several lines.
    """
    needed = [
        max(body.widths[place], *map(cell_len, _pieces(title) if place in narrowed else [title]))
        for place, title in enumerate(body.titles)
    ]
    order = sorted(range(len(names)), key=lambda p: first.index(names[p]) if names[p] in first else len(first))
    must = [place for place in order if names[place] in MUST]
    if width is not None and "method" in names:
        method = names.index("method")
        room = width - sum(needed[place] + len(GAP) for place in must if place != method)
        least = min(room, NARROWED) if narrowed else NARROWEST
        room -= sum(needed[place] + len(GAP) for place in narrowed)
        needed[method] = min(needed[method], max(room, least))
    chosen: list[int] = []
    for place in order:
        taken = sum(needed[other] + len(GAP) for other in chosen)
        if width is None or not chosen or taken + needed[place] <= width:
            chosen.append(place)
    places = sorted(chosen)
    return Layout(places, [needed[p] for p in places], [names[p] in LEFT for p in places])


def _text(line: Line, layout: Layout) -> Text:
    """Return a row of a table, of several lines where a label does not fit its column."""
    parts = [
        list(_broken(line.cells[place], width)) if left else [line.cells[place]]
        for place, width, left in zip(layout.places, layout.widths, layout.lefts, strict=True)
    ]
    height = max(map(len, parts))
    return _side_by_side([[*lines, *[""] * (height - len(lines))] for lines in parts], layout, line.style)


def _title_text(titles: Sequence[str], layout: Layout) -> Text:
    """Return the line of titles; those wider than their column are broken behind hyphens, and end in the last line."""
    parts = []
    for place, width in zip(layout.places, layout.widths, strict=True):
        lines = [""]
        for piece in _pieces(titles[place]):
            if lines[-1] and cell_len(lines[-1] + piece) > width:
                lines.append("")
            lines[-1] += piece
        parts.append(lines)
    height = max(map(len, parts))
    return _side_by_side([[*[""] * (height - len(lines)), *lines] for lines in parts], layout, "bold")


def _pieces(title: str) -> list[str]:
    """Return the parts of a title between which it may be broken."""
    return re.findall(r"[^-]+-?", title) or [title]


def _side_by_side(parts: Sequence[Sequence[str]], layout: Layout, style: str) -> Text:
    """Return the lines of each cell of a row, equally many, side by side in the columns of a layout."""
    columns = list(zip(layout.widths, layout.lefts, strict=True))
    lines = []
    for texts in zip(*parts, strict=True):
        padded = [
            text + " " * (width - cell_len(text)) if left else " " * (width - cell_len(text)) + text
            for text, (width, left) in zip(texts, columns, strict=True)
        ]
        lines.append(GAP.join(padded).rstrip())
    return Text("\n".join(lines), style=style, no_wrap=True, overflow="ignore")


def _broken(label: str, width: int) -> Iterator[str]:
    """Yield the lines of a label that fit a width, broken behind a comma, colon or space, elsewhere only if need be.

    The mark of tuned runs stays with the word before it.
    """
    if cell_len(label) <= width:
        yield label.rstrip()
        return
    line = ""
    for part in re.findall(rf"[^,: ]*(?:{TUNED}$|[,: ])?", label):
        if line and cell_len((line + part).rstrip()) > width:
            yield line.rstrip()
            line = "  "
        line += part
        while cell_len(line.rstrip()) > width:
            yield line[:width]
            line = "  " + line[width:]
    yield line.rstrip()


def _rule(layout: Layout) -> str:
    return "─" * (sum(layout.widths) + len(GAP) * (len(layout.widths) - 1))


def _why_below(table: Table) -> list[str]:
    """Return for each run below the line why it is not ranked."""
    return [f"– {shown(row.record.method.label)}: {shown(row.reason)}" for row in table.below[:SHOWN]]


def _notes(table: Table, ranked: Sequence[Row], columns: Sequence[Column], layout: Layout) -> list[str]:
    """Return the lines below a table: runs and columns that are not shown, and what the columns mean."""
    hidden = sum(max(0, len(rows) - SHOWN) for rows in (ranked, table.below))
    notes = [f"{hidden} more runs are not shown here: --format md, csv or json has them all."] if hidden else []
    left_out = [column.name for place, column in enumerate(columns) if place not in layout.places]
    if left_out:
        notes.append(f"No room for {', '.join(left_out)}: choose with --columns, or widen the terminal.")
    return [*notes, *caption(table, [columns[place].name for place in layout.places], TUNED.strip())]
