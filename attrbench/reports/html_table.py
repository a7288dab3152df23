"""Rendering of leaderboards as HTML tables for notebooks, in the page's own colors and without scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from attrbench.reports.columns import (
    cells,
    cells_with_reason,
    filled_columns,
    header,
    reference_cells,
    request_columns,
)
from attrbench.reports.ranking import Table
from attrbench.reports.table_cells import caption, shown

LINE = "border:0;border-bottom:1px solid rgba(128,128,128,0.35);background:none;padding:0.3em 0.7em;"
"""CSS style of a cell; half-transparent gray is visible on white and on black."""


def to_html(tables: Sequence[Table]) -> str:
    """Return leaderboards as HTML, one table each, with all text escaped."""
    return "".join(map(_html, tables)) or "<p>no records</p>"


def _html(table: Table) -> str:
    columns = filled_columns(table, request_columns((), [table]))
    titles = header(table, columns)
    rows = [_row(titles, titles, "th", "font-weight:bold;")]
    rows += [
        _row(titles, cells(table, row, columns), "td", "font-weight:bold;" * (row.rank == 1)) for row in table.ranked
    ]
    rows += [_row(titles, texts, "td", "font-style:italic;") for texts in reference_cells(table, columns)]
    rows += [_row(titles, cells_with_reason(table, row, columns), "td", "opacity:0.65;") for row in table.below]
    notes = "".join(f"<br>{escape(line)}" for line in caption(table))
    return (
        f"<div style='overflow-x:auto;color:inherit'><b>{escape(shown(table.task))} v{table.version}</b>"
        "<table style='border-collapse:collapse;font-variant-numeric:tabular-nums;color:inherit'>"
        f"{''.join(rows)}</table><small style='opacity:0.75'>{notes.removeprefix('<br>')}</small></div>"
    )


def _row(titles: Sequence[str], texts: Iterable[str], tag: str, style: str) -> str:
    aligned = zip(("left" if title == "method" else "right" for title in titles), texts, strict=True)
    inner = "".join(f"<{tag} style='{LINE}text-align:{side}'>{escape(cell)}</{tag}>" for side, cell in aligned)
    return f"<tr style='background:none;{style}'>{inner}</tr>"
