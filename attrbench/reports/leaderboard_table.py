"""Rendering of leaderboards as terminal tables, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from attrbench.reports.ranking import Row, Table
from attrbench.reports.table_cells import below_cells, caption, header, ranked_cells, reference_cells, shown

SHOWN = 500
"""Ranked runs, and others, that a table on a terminal shows at most."""


def to_rich(table: Table) -> RenderableType:
    """Return one leaderboard as a table that rich prints on a terminal."""
    grid = RichTable(title=Text(f"{shown(table.task)} v{table.version}"), box=box.SIMPLE_HEAD, title_style="bold")
    for column in header(table):
        grid.add_column(Text(column), justify="left" if column == "method" else "right", overflow="fold")
    for row in table.ranked[:SHOWN]:
        grid.add_row(*map(Text, ranked_cells(table, row)), style="bold" if row.rank == 1 else "")
    references = reference_cells(table)
    for place, cells in enumerate(references, start=1):
        grid.add_row(*map(Text, cells), style="dim", end_section=place == len(references))
    for row in table.below[:SHOWN]:
        grid.add_row(*map(Text, below_cells(table, row)), style="dim")
    hidden = sum(max(0, len(rows) - SHOWN) for rows in (table.ranked, table.below))
    more = [f"{hidden} more runs are not shown here: --format md, csv or json has them all."] if hidden else []
    return Group(grid, *(Text(line, style="dim") for line in [*more, *caption(table)]))


def to_markdown(tables: Sequence[Table]) -> str:
    """Return leaderboards as Markdown, one section for each table."""
    parts = []
    for table in tables:
        lines = [f"## {_md(shown(table.task))} v{table.version}", "", _md_line(header(table))]
        lines.append("|" + "|".join("---" if column == "method" else "--:" for column in header(table)) + "|")
        lines += [_md_line(ranked_cells(table, row)) for row in table.ranked]
        lines += [_md_line(cells) for cells in reference_cells(table)]
        lines += [_md_line(below_cells(table, row)) for row in table.below]
        parts.append("\n".join([*lines, "", *map(_md, caption(table)), ""]))
    return "\n".join(parts)


def _md(text: str) -> str:
    """Return a text with the signs of Markdown escaped: pipes, HTML, code, emphasis, links, bare addresses, mentions.

    Brackets and dots stay as they are where they make no link, so that intervals and numbers remain legible.
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([\\|`*~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)
    text = re.sub(r"\](?=[(\[:])", r"\]", text)
    text = re.sub(r"(?i)(?<=http)(s?):(?=//)|(?<=ftp):(?=//)", r"\1\:", text)
    text = re.sub(r"(?i)(?<=www)\.", r"\.", text)
    return re.sub(r"@(?=[a-z]|[\w-]+\.)", "<span>@</span>", text, flags=re.IGNORECASE)


def _md_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_md(cell) for cell in cells) + " |"


def to_csv(tables: Sequence[Table]) -> str:
    """Return leaderboards as CSV with one line for each run, in bytes and seconds; text is no formula anywhere."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(row_values(None, None)), lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row in [*table.ranked, *table.below]:
            writer.writerow({name: _csv(value) for name, value in row_values(table, row).items()})
    return out.getvalue()


def _csv(value: object) -> object:
    """Return a value for a CSV cell: text on one line, behind a ' where a spreadsheet would take it for a formula."""
    if not isinstance(value, str):
        return value
    text = shown(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠")) else text


def to_json(tables: Sequence[Table]) -> str:
    """Return leaderboards as a JSON list of tables, whose rows have the fields of the CSV."""
    documents = [
        {
            "task": table.task,
            "version": table.version,
            "metric": table.metric,
            "random": table.random,
            "ceiling": table.ceiling,
            "hardware": table.hardware,
            "controls": [
                {"name": control.name, **control.result.model_dump(include={"value", "low", "high"})}
                for control in table.controls
            ],
            "rows": [row_values(table, row) for row in [*table.ranked, *table.below]],
        }
        for table in tables
    ]
    return json.dumps(documents, indent=1, allow_nan=False) + "\n"


def row_values(table: Table | None, row: Row | None) -> dict[str, object]:
    """Return one run of a leaderboard as field name -> value; without a run, the field names with None.

    Numbers that are NaN or infinite are None too; `reason` says why a run is not ranked.
    """
    record = None if row is None else row.record
    result = None if record is None or table is None else record.metric(table.metric)
    storage = None if record is None else record.storage
    latency = None if record is None else record.latency
    recall = None if record is None else record.metric("ann-recall@10")
    values = {
        "task": None if table is None else table.task,
        "task_version": None if table is None else table.version,
        "rank": None if row is None else row.rank,
        "method": None if record is None else record.method.label,
        "tuned_from": None if record is None or record.tuned is None else record.tuned.sweep,
        "status": None if record is None else record.status,
        "metric": None if table is None else table.metric,
        "value": None if result is None else result.value,
        "low": None if result is None else result.low,
        "high": None if result is None else result.high,
        "storage_bytes": None if storage is None else storage.total,
        "storage_bytes_if_kept": None if storage is None else storage.rows_if_kept,
        "query_p50_seconds": None if latency is None else latency.query.p50,
        "query_p95_seconds": None if latency is None else latency.query.p95,
        "amortized_seconds": None if latency is None else latency.cache + latency.fit,
        "ann_recall_at_10": None if recall is None else recall.value,
        "pareto": None if row is None else row.pareto,
        "hardware": None if table is None else table.hardware,
        "identity": None if record is None else record.identity,
        "reason": None if row is None else row.reason or None,
    }
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }
