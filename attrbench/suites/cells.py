"""Cells of a suite's table: values of records as texts and numbers, beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence

from attrbench.contracts.options import as_written
from attrbench.contracts.record import Record
from attrbench.contracts.record_costs import Quantiles
from attrbench.metrics.intervals import mean_interval
from attrbench.reports.quantities import human_seconds
from attrbench.reports.table_cells import time_text
from attrbench.suites.paper import Value
from attrbench.suites.table import Cell

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def metric_cell(paper: Value | None, record: Record | None, metric: str, group: str = "") -> Cell:
    """Return the cell of a metric, over all queries or those of a group, with its 95% interval over them.

    Args:
        paper: the paper's value.
        record: ours; None where there is none.
        metric: name with cut-off.
        group: of the queries; empty for all.
    """
    result = None if record is None else record.metric(metric)
    if record is None or result is None or not result.finite:
        return Cell(_published(paper), published=paper)
    value, interval = result.value, (result.low, result.high)
    if group:
        values = [each for each, of in zip(result.per_query, record.query_groups, strict=True) if of == group]
        if not values:
            return Cell(_published(paper), published=paper)
        value = sum(values) / len(values)
        interval = mean_interval(values, record.seed) or (None, None)
    low, high = interval
    text = "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"
    return Cell(_published(paper), f"{value:.3f}", text, paper, value, low, high)


def _published(paper: Value | None) -> str:
    """Return the paper's value of a metric with its four decimals."""
    return f"{paper:.4f}" if isinstance(paper, float) else plain_text(paper)


def plain_text(value: object) -> str:
    """Return a value as text: numbers in short, lists with commas; empty for None."""
    if value is None:
        return ""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(plain_text, value))
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else as_written(value)


def stored_bytes(record: Record) -> int:
    """Return the bytes of the rows that a method keeps, or would keep; of an index that holds them, its own."""
    storage = record.storage
    assert storage is not None
    return storage.rows_if_kept if storage.rows_if_kept is not None else storage.rows or storage.total


def storage_cell(paper: Value | None, record: Record | None, value: str, base: Record | None) -> Cell:
    """Return the cell of `item`, `total` (bytes) or `share` (of what the record `base` would keep)."""
    if record is None or record.storage is None or (value == "share" and base is None):
        return Cell(plain_text(paper), published=paper)
    total = float(stored_bytes(record))
    if value == "share":
        assert base is not None
        share = total / stored_bytes(base)
        return Cell(plain_text(paper), f"{100 * share:.3g}%", published=paper, value=share)
    if value == "item":
        total /= record.coverage.train_items
    return Cell(plain_text(paper), binary_bytes(total), published=paper, value=total)


def binary_bytes(count: float) -> str:
    """Return a number of bytes in units of 1,024, such as `160 KiB`, with four digits."""
    place = 0
    while count >= 1024 and place < len(UNITS) - 1:
        count /= 1024
        place += 1
    return f"{count:.4g} {UNITS[place]}"


def time_cell(paper: Value | None, record: Record | None, value: str, clock: str, base: float | None) -> Cell:
    """Return the cell of `seconds` (median over queries, with the 95th percentile) or of `speedup` over `base`."""
    text = f"{paper:,.3f} s" if isinstance(paper, float) else plain_text(paper)
    seconds = None if record is None else seconds_of(record, clock)
    if record is None or seconds is None:
        return Cell(text, published=paper)
    if value == "speedup":
        return Cell(text, published=paper) if base is None else _speed_cell(text, paper, base / seconds.p50)
    ours = time_text(record, seconds.p50)
    return Cell(text, ours, human_seconds(seconds.p95), paper, seconds.p50)


def _speed_cell(text: str, paper: Value | None, speed: float) -> Cell:
    return Cell(text, f"{speed:,.2f}x" if speed < 100 else f"{speed:,.0f}x", published=paper, value=speed)


def seconds_of(record: Record, clock: str) -> Quantiles | None:
    """Return the time of a query: of ranking alone (`score`), or with gradients (`query`); None where unknown or 0."""
    if record.latency is None or not record.latency.finite:
        return None
    found: Quantiles = record.latency.query if clock == "query" else record.latency.score
    return found if found.p50 > 0 else None
