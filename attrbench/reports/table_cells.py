"""The columns and cells of a leaderboard as text, shared by the terminal, Markdown and HTML tables."""

from __future__ import annotations

import math

from attrbench.contracts.record import MetricResult, Record, Tried
from attrbench.contracts.record_costs import Storage
from attrbench.reports.ranking import Row, Table
from attrbench.text import one_line

COLUMNS = (
    "#",
    "method",
    "metric",
    "95% interval",
    "storage",
    "query p50",
    "query p95",
    "amortized",
    "ANN recall",
    "Pareto",
)
LONGEST = 400
"""Characters of a text from a record that a cell shows at most."""


def shown(text: object) -> str:
    """Return a text from a record, such as a label or an error, on one line, printable, and cut where it is long."""
    line = one_line(text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def header(table: Table) -> list[str]:
    """Return the column titles of a leaderboard table; the metric's column is titled with its name."""
    return [f"{shown(table.metric)} ↑" if column == "metric" else column for column in COLUMNS]


def ranked_cells(table: Table, row: Row) -> list[str]:
    """Return the text of each cell of a ranked run: rank, method, metric with interval, costs, Pareto mark."""
    return [
        f"{row.rank}{'=' if row.rank in table.tied else ''}",
        method_text(row.record),
        *_results(table, row.record),
        "✓" if row.pareto else "",
    ]


def reference_cells(table: Table) -> list[list[str]]:
    """Return table rows to compare with: the ground truth's controls, else the expected random ranking."""
    rest = [""] * (len(COLUMNS) - 4)
    if table.controls:
        return [
            ["", f"control: {shown(control.name)}", f"{control.result.value:.3f}", interval_text(control.result), *rest]
            for control in table.controls
        ]
    value = "" if table.random is None else f"{table.random:.3f}"
    return [["", "random ranking (analytic)", value, "", *rest]]


def below_cells(table: Table, row: Row) -> list[str]:
    """Return the text of each cell of a run that is not ranked, with the reason beside its method."""
    label = f"{method_text(row.record)} ({shown(row.reason)})"
    if row.record.storage is None or row.record.latency is None:
        return ["–", label, *[""] * (len(COLUMNS) - 2)]
    return ["–", label, *_results(table, row.record), ""]


def method_text(record: Record) -> str:
    """Return a run's method with its options as text (`dmin:v=4096`), marked `(tuned)` if they were tuned."""
    return shown(record.method.label) + (" (tuned)" if record.tuned is not None else "")


def _results(table: Table, record: Record) -> list[str]:
    assert record.storage is not None and record.latency is not None
    recall = record.metric("ann-recall@10")
    return [
        *_value(record, table.metric),
        storage_text(record.storage),
        human_seconds(record.latency.query.p50),
        human_seconds(record.latency.query.p95),
        human_seconds(record.latency.cache + record.latency.fit),
        "" if recall is None or not math.isfinite(recall.value) else f"{recall.value:.3f}",
    ]


def interval_text(result: MetricResult | Tried) -> str:
    """Return a metric's 95% interval as text `[low, high]`; empty if there is none."""
    return "" if result.low is None or result.high is None else f"[{result.low:.3f}, {result.high:.3f}]"


def _value(record: Record, metric: str) -> tuple[str, str]:
    """Return a record's metric value and interval as text; empty strings if it lacks them, or they are not finite."""
    result = record.metric(metric)
    return ("", "") if result is None or not result.finite else (f"{result.value:.3f}", interval_text(result))


def caption(table: Table) -> list[str]:
    """Return the lines of explanation below a leaderboard table: data set sizes, hardware, meaning of columns."""
    ceiling = "" if table.ceiling is None else f", ceiling {table.ceiling:.3f}"
    retrained = [
        f"{shown(table.metric)} is no measure of retrieval and has no cut-off: models were trained again without the"
        " items at the top. Its intervals cover training seeds and pictures.",
    ]
    paired = "interval over seeds and pictures" if table.controls else "bootstrap over queries"
    return [
        f"{table.train_items} training items, {table.queries} queries, {shown(table.hardware)}{ceiling}.",
        *(retrained if table.controls else []),
        *_how_tuned(table),
        f"Equal ranks (=): the paired {paired} does not separate them. Pareto ✓: no other is at least as good, small"
        " and fast.",
        "Query time: features and search of one query. Amortized: training features and index, once a training set; a"
        " pass that served several methods counts in full for each.",
        "Storage 'none': no gradient is kept, so every new query costs a pass over the training set.",
    ]


def _how_tuned(table: Table) -> list[str]:
    """Return a caption line that says how tuned options were chosen; an empty list if no run was tuned."""
    tuned = [row.record.tuned for row in [*table.ranked, *table.below] if row.record.tuned is not None]
    if not tuned:
        return []
    by = shown(", ".join(dict.fromkeys(each.by for each in tuned)))
    queries = ", ".join(dict.fromkeys(str(each.queries) for each in tuned))
    return [f"Tuned: options chosen by {by} on {queries} tuning queries, never on these; the records name all values."]


def storage_text(storage: Storage) -> str:
    """Return a method's storage as text (`327 MB`), with the size of its search index if it has one."""
    kept = storage.rows_if_kept
    if kept is not None:
        return f"{human_bytes(storage.total) if storage.total else 'none'} ({human_bytes(kept)} if kept)"
    index = f" (index {human_bytes(storage.index)})" if storage.rows and storage.index else ""
    return human_bytes(storage.total) + index


def human_bytes(count: float) -> str:
    """Return a number of bytes as text with a unit and three digits, such as `327 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:.3g} TB"


def human_seconds(seconds: float) -> str:
    """Return a duration as text with a fitting unit, such as `31 ms`; empty for NaN and infinity."""
    if not math.isfinite(seconds):
        return ""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds / 3600:.2g} h"
