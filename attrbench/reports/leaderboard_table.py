"""Rendering of leaderboards as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence

from attrbench.reports.columns import (
    Column,
    cells,
    cells_with_reason,
    column_values,
    filled_columns,
    header,
    reference_cells,
    request_columns,
    sorted_rows,
)
from attrbench.reports.ranking import Row, Table
from attrbench.reports.table_cells import caption, shown

NEEDS_ESCAPE = re.compile(r"[&<\\|`*~_@:]|\][(\[]|(?i:www)\.")
"""Finds a text with any of the signs that `markdown_text` escapes; most cells are numbers without."""


def to_markdown(tables: Sequence[Table], columns: Sequence[str] = (), sort: str = "rank") -> str:
    """Return leaderboards as Markdown, one section for each table.

    Args:
        tables: the leaderboards.
        columns: names of columns and metrics; empty ones are left out.
        sort: the column by which ranked runs are sorted.
    """
    parts, wanted = [], request_columns(columns, tables)
    for table in tables:
        rows = markdown_rows(table, filled_columns(table, wanted), sort)
        title = f"## {markdown_text(shown(table.task))} v{table.version}"
        parts.append("\n".join([title, "", *rows, "", *map(markdown_text, caption(table)), ""]))
    return "\n".join(parts)


def markdown_rows(table: Table, columns: Sequence[Column], sort: str = "rank") -> list[str]:
    """Return a leaderboard's table as lines of Markdown: heading, ranked runs, what to compare with, and the others."""
    lines = [markdown_line(header(table, columns))]
    lines.append("|" + "|".join("---" if column.name == "method" else "--:" for column in columns) + "|")
    lines += [markdown_line(cells(table, row, columns)) for row in sorted_rows(table, sort)]
    lines += [markdown_line(texts) for texts in reference_cells(table, columns)]
    return [*lines, *(markdown_line(cells_with_reason(table, row, columns)) for row in table.below)]


def markdown_text(text: str) -> str:
    """Return a text with the signs of Markdown escaped: pipes, HTML, code, emphasis, links, bare addresses, mentions.

    Brackets and dots stay as they are where they make no link, so that intervals and numbers remain legible.
    """
    if not NEEDS_ESCAPE.search(text):
        return text
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([\\|`*~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)
    text = re.sub(r"\](?=[(\[:])", r"\]", text)
    text = re.sub(r"(?i)(?<=http)(s?):(?=//)|(?<=ftp):(?=//)", r"\1\:", text)
    text = re.sub(r"(?i)(?<=www)\.", r"\.", text)
    return re.sub(r"@(?=[a-z]|[\w-]+\.)", "<span>@</span>", text, flags=re.IGNORECASE)


def markdown_line(texts: Sequence[str]) -> str:
    """Return cells as a row of a Markdown table, with their signs of Markdown escaped."""
    return "| " + " | ".join(map(markdown_text, texts)) + " |"


def to_csv(tables: Sequence[Table], columns: Sequence[str] = (), sort: str = "rank") -> str:
    """Return leaderboards as CSV with one line for each run, in bytes and seconds; text is no formula anywhere.

    Args:
        tables: the leaderboards.
        columns: names of columns and metrics; by default the fields of `row_values`.
        sort: the column by which ranked runs are sorted.
    """
    wanted = request_columns(columns, tables) if columns else None
    rows = [_values(table, row, wanted) for table in tables for row in [*sorted_rows(table, sort), *table.below]]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0] if rows else row_values(None, None)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_value(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _values(table: Table, row: Row, columns: Sequence[Column] | None) -> dict[str, object]:
    """Return a run's fields: all of `row_values`, or those of some columns, which begin with the task."""
    known = row_values(table, row)
    if columns is None:
        return known
    values = column_values(table, row, columns, known)
    return {"task": known["task"]} | {name: _finite(value) for name, value in values.items()}


def csv_value(value: object) -> object:
    """Return a value for a CSV cell: text on one line, behind a ' where a spreadsheet would take it for a formula."""
    if not isinstance(value, str):
        return value
    text = shown(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠")) else text


def to_json(tables: Sequence[Table], columns: Sequence[str] = (), sort: str = "rank") -> str:
    """Return leaderboards as a JSON list of tables, whose rows have the fields of the CSV; arguments as `to_csv`."""
    wanted = request_columns(columns, tables) if columns else None
    documents = [
        {
            "task": table.task,
            "version": table.version,
            "metric": table.metric,
            "random": table.random,
            "ceiling": table.ceiling,
            "hardware": list(table.machines),
            "controls": [
                {"name": control.name, **control.result.model_dump(include={"value", "low", "high"})}
                for control in table.controls
            ],
            "rows": [_values(table, row, wanted) for row in [*sorted_rows(table, sort), *table.below]],
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
        "ceiling": None if result is None else result.ceiling,
        "storage_bytes": None if storage is None else storage.total,
        "storage_bytes_if_kept": None if storage is None else storage.rows_if_kept,
        "query_p50_seconds": None if latency is None else latency.query.p50,
        "query_p95_seconds": None if latency is None else latency.query.p95,
        "amortized_seconds": None if latency is None else latency.cache + latency.fit,
        "ann_recall_at_10": None if recall is None else recall.value,
        "pareto": None if row is None else row.pareto,
        "hardware": None if record is None else record.hardware.times_class,
        "identity": None if record is None else record.identity,
        "reason": None if row is None else row.reason or None,
    }
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
