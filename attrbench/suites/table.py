"""A table as a paper lays it out, with the paper's value, ours and our interval in each cell; as text for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from attrbench.reports.leaderboard_table import csv_value, markdown_line, markdown_text
from attrbench.suites.paper import Value


@dataclass(frozen=True)
class Cell:
    """A cell: the paper's value, ours and our interval, each as it is shown, and ours as numbers.

    Attributes:
        paper, ours, interval: as texts; empty where there is none.
        published: the paper's value as its document has it.
        value, low, high: ours.
    """

    paper: str = ""
    ours: str = ""
    interval: str = ""
    published: Value | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Column:
    """A column of a part of a table; columns of one group stand under its name."""

    title: str
    group: str = ""

    @property
    def text(self) -> str:
        """Return group and title as one text."""
        return f"{self.group}, {self.title}" if self.group else self.title


@dataclass(frozen=True)
class Line:
    """A row: its name, and a cell for each column."""

    name: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Part:
    """A part of a table with a title of its own, such as the rows of one model."""

    title: str
    columns: Sequence[Column]
    lines: Sequence[Line]


@dataclass(frozen=True)
class SuiteTable:
    """A table that is ready to be shown.

    Attributes:
        title: what it shows, and where in the paper it stands.
        about: what a reader must know first: the scale, the tasks, the machine.
        parts: its parts.
        notes: footnotes, in the order of their marks.
        interval: the name of the intervals: `95%`, or `p95` of times.
    """

    title: str
    about: Sequence[str]
    parts: Sequence[Part]
    notes: Sequence[str]
    interval: str = "95%"
    scale: str = ""
    records: Sequence[str] = field(default_factory=tuple)


def to_markdown(table: SuiteTable) -> str:
    """Return a table as Markdown: a table for each part, with `paper / ours [low, high]` in each cell."""
    lines = [f"## {markdown_text(table.title)}", ""]
    lines += [line for text in table.about for line in (markdown_text(text), "")]
    if any(cell.paper and cell.ours for part in table.parts for line in part.lines for cell in line.cells):
        lines += [f"Cells: paper / ours, {'interval' if table.interval == '95%' else table.interval}.", ""]
    for part in table.parts:
        lines += [f"### {markdown_text(part.title)}", ""] if part.title else []
        lines.append(markdown_line(["", *(column.text for column in part.columns)]))
        lines.append("|---|" + "--:|" * len(part.columns))
        lines += [markdown_line([line.name, *map(_joined, line.cells)]) for line in part.lines]
        lines.append("")
    return "\n".join([*lines, *(f"- {markdown_text(note)}" for note in table.notes), ""])


def _joined(cell: Cell) -> str:
    ours = " ".join(filter(None, (cell.ours, cell.interval)))
    return " / ".join(filter(None, (cell.paper, ours)))


FIELDS = ("part", "row", "column", "paper", "ours", "low", "high")


def to_csv(table: SuiteTable) -> str:
    """Return a table as CSV with one line for each cell; text is no formula anywhere."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_value(value) for name, value in row.items()} for row in _cells(table))
    return out.getvalue()


def to_json(table: SuiteTable) -> str:
    """Return a table as JSON: title, scale, notes, the records that it was made of, and a list of its cells."""
    document = {
        "title": table.title,
        "scale": table.scale,
        "about": list(table.about),
        "cells": _cells(table),
        "notes": list(table.notes),
        "records": list(table.records),
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _cells(table: SuiteTable) -> list[dict[str, object]]:
    return [
        {
            "part": part.title,
            "row": line.name,
            "column": column.text,
            "paper": cell.published,
            "ours": cell.ours or None if cell.value is None else cell.value,
            "low": cell.low,
            "high": cell.high,
        }
        for part in table.parts
        for line in part.lines
        for column, cell in zip(part.columns, line.cells, strict=True)
    ]
