"""The columns of a leaderboard by name: their titles, cells and CSV fields, and the rows that they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeAlias

from attrbench.contracts.record import MetricResult, Record
from attrbench.contracts.record_costs import Latency, Storage
from attrbench.errors import UsageError, unknown_name
from attrbench.reports.quantities import human_bytes
from attrbench.reports.ranking import Row, Table
from attrbench.reports.table_cells import (
    interval_text,
    method_text,
    metric_text,
    share_text,
    shown,
    storage_text,
    time_text,
    value_text,
)

BAR = 12
"""Characters of a score bar."""
EIGHTHS = " ▏▎▍▌▋▊▉"
OF_METRIC = ("metric", "score", "bar", "interval", "of-ceiling")
"""Columns of the metric that ranks."""
Value: TypeAlias = "float | str | None"
"""A value of a record that runs can be sorted by; None comes last."""


@dataclass(frozen=True)
class Column:
    """A column of a leaderboard.

    Attributes:
        name: what `--columns` and `--sort` call it.
        title: its heading; of a metric that ranks it is empty, since each table has its own.
        cell: returns the text of a run's cell, empty where there is nothing to show.
        fields: names of its values in CSV and JSON.
        order: returns the value of a record by which runs are sorted, smallest first; None where they can't be.
        metric: the metric that it shows, where it is not the one that ranks.
    """

    name: str
    title: str
    cell: Callable[[Table, Row], str]
    fields: tuple[str, ...]
    order: Callable[[Record], Value] | None = None
    metric: str | None = None


def _of_record(
    name: str, title: str, value: Callable[[Record], Value], text: Callable[[Any], str], *fields: str
) -> Column:
    """Return a column of a value of the record itself, that is shown by `text` and sorted by."""

    def cell(table: Table, row: Row) -> str:
        found = value(row.record)
        return "" if found is None else text(found)

    return Column(name, title, cell, fields, value)


def _of_latency(name: str, title: str, seconds: Callable[[Latency], float], field: str) -> Column:
    """Return a column of times, marked with ~ where other processes kept the machine busy."""

    def value(record: Record) -> float | None:
        return None if record.latency is None else seconds(record.latency)

    def cell(table: Table, row: Row) -> str:
        number = value(row.record)
        return "" if number is None else time_text(row.record, number)

    return Column(name, title, cell, (field,), value)


def _of_storage(
    name: str, title: str, count: Callable[[Storage], int | None], text: Callable[[Storage], str], *fields: str
) -> Column:
    """Return a column of bytes."""

    def value(record: Record) -> int | None:
        return None if record.storage is None else count(record.storage)

    def cell(table: Table, row: Row) -> str:
        return "" if value(row.record) is None or row.record.storage is None else text(row.record.storage)

    return Column(name, title, cell, fields, value)


def _rank(table: Table, row: Row) -> str:
    return row.place or "–"


def _value(table: Table, row: Row) -> str:
    return value_text(row.record.metric(table.metric))


def _interval(table: Table, row: Row) -> str:
    result = row.record.metric(table.metric)
    return interval_text(result) if result is not None and result.finite else ""


def _of_ceiling(table: Table, row: Row) -> str:
    """Return a ground truth's metric as a share of its ceiling, the noise of training; empty for other metrics."""
    result = row.record.metric(table.metric)
    return share_text(result) if result is not None and result.criterion else ""


def _score(table: Table, row: Row) -> str:
    return metric_text(row.record.metric(table.metric))


def _bar(table: Table, row: Row) -> str:
    """Return a ranked run's value as a bar that is full at the ceiling, or where that is unknown at the best value."""
    result = row.record.metric(table.metric)
    full = table.full_bar
    if row.rank is None or result is None or not result.higher_is_better or full <= 0 or result.value <= 0:
        return ""
    eighths = round(8 * BAR * result.value / full)
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()).ljust(BAR)


def _recall(record: Record) -> float | None:
    recall = record.metric("ann-recall@10")
    return None if recall is None or not math.isfinite(recall.value) else recall.value


def _total(storage: Storage) -> str:
    return human_bytes(storage.total) if storage.total or storage.rows_if_kept is None else "none"


def _kept(storage: Storage) -> str:
    return human_bytes(storage.rows_if_kept or 0)


def _index(storage: Storage) -> str:
    return human_bytes(storage.index)


ALL = (
    Column("rank", "#", _rank, ("rank",)),
    Column("method", "method", lambda _, row: method_text(row.record), ("method", "tuned_from")),
    Column("metric", "", _value, ("metric", "value")),
    Column("interval", "95% interval", _interval, ("low", "high")),
    Column("of-ceiling", "of ceiling", _of_ceiling, ("value", "ceiling")),
    Column("score", "", _score, ("metric", "value", "low", "high")),
    Column("bar", "", _bar, ("value",)),
    _of_storage("storage", "storage", lambda s: s.total, storage_text, "storage_bytes", "storage_bytes_if_kept"),
    _of_storage("size", "storage", lambda s: s.total, _total, "storage_bytes"),
    _of_storage("if-kept", "if kept", lambda s: s.rows_if_kept, _kept, "storage_bytes_if_kept"),
    _of_storage("index", "index", lambda s: s.index if s.rows and s.index else None, _index, "index_bytes"),
    _of_latency("query-p50", "query p50", lambda latency: latency.query.p50, "query_p50_seconds"),
    _of_latency("query-p95", "query p95", lambda latency: latency.query.p95, "query_p95_seconds"),
    _of_latency("amortized", "amortized", lambda latency: latency.cache + latency.fit, "amortized_seconds"),
    _of_record("ann-recall", "ANN recall", _recall, "{:.3f}".format, "ann_recall_at_10"),
    Column("machine", "on", lambda _, row: row.machine, ("hardware",)),
    Column("pareto", "Pareto", lambda _, row: "✓" if row.pareto else "", ("pareto",)),
    _of_record("memory", "peak memory", lambda record: record.peak_memory_bytes, human_bytes, "peak_memory_bytes"),
    _of_record("device-memory", "on device", lambda r: r.peak_device_bytes, human_bytes, "peak_device_bytes"),
    _of_record("version", "version", lambda record: record.method.version, str, "method_version"),
    _of_record("seed", "seed", lambda record: record.seed, str, "seed"),
    _of_record("created", "created", lambda record: record.created, lambda text: shown(text)[:10], "created"),
    _of_record("distribution", "from", lambda record: record.method.distribution, shown, "distribution"),
    _of_record("identity", "record", lambda record: record.identity, lambda text: shown(text)[:10], "identity"),
)
COLUMNS: Mapping[str, Column] = {column.name: column for column in ALL}
"""Every column by name. Besides these each metric is a column, under its own name."""
DEFAULT = (
    "rank",
    "method",
    "metric",
    "interval",
    "of-ceiling",
    "criteria",
    "storage",
    "query-p50",
    "query-p95",
    "amortized",
    "machine",
    "ann-recall",
    "pareto",
)
"""The columns of Markdown and HTML where none are named."""
ALWAYS = {"rank", "method", "metric", "score"}
"""Columns that stay where they are empty."""


def request_columns(names: Sequence[str], tables: Sequence[Table], default: Sequence[str] = DEFAULT) -> list[Column]:
    """Return the columns that were asked for by name, by default those of `default`.

    Args:
        names: names of columns or metrics, each alone or several with commas; `metrics` is every metric but the one
            that ranks, `criteria` the ground truths' and the main metric among them, `all` every column and metric.
        tables: the tables that they are for.
        default: names of the columns where none are named.

    Raises:
        UsageError: for a name that is neither a column nor a metric of the records.
    """
    words = list(chain.from_iterable(text.replace(",", " ").split() for text in names)) or list(default)
    known = metrics_of(tables)
    others = [name for name in known if any(table.metric != name for table in tables)]
    criteria = [name for name in others if any(name in table.criteria for table in tables)]
    groups = {"all": [*COLUMNS, *others], "metrics": others, "criteria": criteria}
    meant: list[str] = []
    for word in words:
        meant += groups.get(word, [word])
    return [_column(name, known) for name in dict.fromkeys(meant)]


def metrics_of(tables: Iterable[Table]) -> list[str]:
    """Return the names of all metrics that the runs of some tables have, in the order of their records."""
    rows = (row for table in tables for row in [*table.ranked, *table.below])
    return list(dict.fromkeys(result.name for row in rows for result in row.record.metrics))


def _column(name: str, metrics: Sequence[str]) -> Column:
    if name in COLUMNS:
        return COLUMNS[name]
    if name not in metrics:
        raise unknown_name("column", name, [*COLUMNS, *metrics, "metrics", "criteria", "all"])
    fields = (name, f"{name}_low", f"{name}_high")
    return Column(name, f"{name} ↑", lambda _, row: metric_text(row.record.metric(name)), fields, metric=name)


def without_interval(column: Column) -> Column:
    """Return a column that shows the values of its metric alone; other columns as they are."""
    name = column.metric
    return column if name is None else replace(column, cell=lambda _, row: value_text(row.record.metric(name)))


def filled_columns(table: Table, columns: Sequence[Column]) -> list[Column]:
    """Return those of the columns in which a run of the table has something to show."""
    rows = [*table.ranked, *table.below]
    return [column for column in columns if column.name in ALWAYS or any(column.cell(table, row) for row in rows)]


def header(table: Table, columns: Sequence[Column]) -> list[str]:
    """Return the titles of columns; that of a metric is its name with an arrow that says which way is better."""
    return [_title(table, column) for column in columns]


def _title(table: Table, column: Column) -> str:
    if column.name == "bar":
        return ""
    if column.title and column.metric is None:
        return column.title
    metric = column.metric or table.metric
    results = (row.record.metric(metric) for row in [*table.ranked, *table.below])
    lower = any(result is not None and not result.higher_is_better for result in results)
    return f"{shown(metric)} {'↓' if lower else '↑'}"


def cells(table: Table, row: Row, columns: Sequence[Column]) -> list[str]:
    """Return the text of each cell of a run."""
    return [column.cell(table, row) for column in columns]


def cells_with_reason(table: Table, row: Row, columns: Sequence[Column]) -> list[str]:
    """Return the text of each cell of a run that is not ranked, with the reason beside its method."""
    texts = cells(table, row, columns)
    reason = f" ({shown(row.reason)})"
    return [text + reason * (column.name == "method") for column, text in zip(columns, texts, strict=True)]


def reference_cells(table: Table, columns: Sequence[Column]) -> list[list[str]]:
    """Return table rows to compare with: the ground truth's controls, else the expected random ranking."""
    if table.controls:
        return [
            _reference(columns, f"control: {shown(control.name)}", f"{control.result.value:.3f}", control.result)
            for control in table.controls
        ]
    if table.random is None:
        return []
    texts = _reference(columns, "random ranking (analytic)", f"{table.random:.3f}", None)
    pairs = zip(texts, columns, strict=True)
    return [[text or (expected_text(table, column.metric) if column.metric else "") for text, column in pairs]]


def expected_text(table: Table, metric: str) -> str:
    """Return what a random ranking has of a metric on a board, as text; empty where that is not known."""
    results = (row.record.metric(metric) for row in table.ranked)
    values = [result.random for result in results if result is not None and result.random is not None]
    return f"{values[0]:.3f}" if values and math.isfinite(values[0]) else ""


def _reference(columns: Sequence[Column], name: str, value: str, result: MetricResult | None) -> list[str]:
    interval = "" if result is None else interval_text(result)
    texts = {"method": name, "metric": value, "interval": interval, "score": f"{value} {interval}".strip()}
    return [texts.get(column.name, "") for column in columns]


def sorted_rows(table: Table, name: str) -> list[Row]:
    """Return a table's ranked runs in the order of a column: metrics best first, all others smallest first.

    Raises:
        UsageError: for a name that is no column or metric, or a column that gives no order.
    """
    column = _column(name, metrics_of([table]))
    metric = column.metric or (table.metric if name in OF_METRIC else None)
    order = column.order

    def key(row: Row) -> tuple[bool, Any]:
        if name == "rank":
            return False, row.rank
        if name == "method":
            return False, row.record.method.label
        value = quality(row.record.metric(metric)) if metric else order(row.record) if order else None
        return value is None, value if value is not None else 0

    if not (metric or order or name in ("rank", "method")):
        raise UsageError(f"--sort {name}: runs have no order by it; give a metric, or a column of costs")
    return sorted(table.ranked, key=key)


def quality(result: MetricResult | None) -> float | None:
    """Return a metric's value with the sign by which the best comes first; None where there is none."""
    if result is None or not math.isfinite(result.value):
        return None
    return -result.value if result.higher_is_better else result.value


def column_values(table: Table, row: Row, columns: Sequence[Column], known: Mapping[str, object]) -> dict[str, object]:
    """Return the values of columns for one run by field, as CSV and JSON have them.

    Args:
        table: the run's table.
        row: the run.
        columns: the columns.
        known: the values of the fields that every run has.
    """
    values: dict[str, object] = {}
    for column in columns:
        result = None if column.metric is None else row.record.metric(column.metric)
        for place, field in enumerate(column.fields):
            if column.metric is not None:
                values[field] = None if result is None else (result.value, result.low, result.high)[place]
            elif field in known:
                values[field] = known[field]
            elif column.order is not None:
                values[field] = column.order(row.record)
    return values
