"""A record as lines of text: what ran, what came out, what it cost, where, and how to repeat it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from attrbench.contracts.record import Record
from attrbench.contracts.record_files import KeptRecord
from attrbench.errors import UsageError
from attrbench.reports.quantities import human_bytes, human_seconds
from attrbench.reports.table_cells import criteria_first, method_text, metric_text, shown, storage_text
from attrbench.reports.text_table import text_table

UNBROKEN = ("metrics", "command", "file")
"""Parts whose lines are as long as they are: a table, and what is copied from a terminal into another."""


def record_lines(kept: KeptRecord, unknown: Sequence[str] = (), line_width: int | None = None) -> list[str]:
    """Return a record as lines of text, each part under its name.

    Args:
        kept: the record with its path.
        unknown: lines on what is not registered here.
        line_width: characters of a line of prose, which is broken between words; None for as many as it needs. Tables,
            commands and paths are never broken.
    """
    record = kept.record
    parts: list[tuple[str, list[str]]] = [
        ("method", _method(record)),
        ("task", _task(record)),
        ("status", [record.status, *([] if record.error is None else [shown(record.error)]), *_coverage(record)]),
        ("notes", [*map(shown, record.notes), *unknown]),
        ("metrics", _metrics(record)),
        ("controls", [f"{shown(control.name)}: {metric_text(control.result)}" for control in record.controls]),
        ("facts", [f"{shown(name)} {value:.6g}" for name, value in record.facts.items()]),
        ("tuned", _tuned(record)),
        ("cost", _cost(record)),
        ("machine", _machine(record)),
        ("software", _software(record)),
        ("command", [shown(record.command)]),
        ("identity", [shown(record.identity)]),
        ("file", [shown(kept.path)]),
    ]
    width = max(len(name) for name, _ in parts) + 2
    return [
        f"{name if place == 0 else '':<{width}}{line}".rstrip()
        for name, lines in parts
        for place, line in enumerate(lines if name in UNBROKEN else _broken(lines, line_width, width))
    ]


def _broken(lines: Sequence[str], line_width: int | None, indent: int) -> list[str]:
    if line_width is None:
        return list(lines)
    room = max(line_width - indent, 20)
    return [
        part
        for line in lines
        for part in textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False) or [""]
    ]


def unknown_lines(record: Record, methods: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """Return a line for the method and one for the task of a record where no installed plugin registers them."""
    lines = []
    if record.method.name not in methods:
        lines.append(
            f"unknown method '{shown(record.method.name)}': its record names the distribution"
            f" {shown(record.method.distribution)}"
        )
    if record.task.name not in tasks:
        lines.append(f"unknown task '{shown(record.task.name)}': no plugin that is installed here registers it")
    return lines


def ranking_lines(record: Record, query: int, count: int) -> list[str]:
    """Return the training items at the top of a query's ranking, and the query's value of each metric, as lines.

    Raises:
        UsageError: for a query that the record does not have.
    """
    if not 0 <= query < len(record.ranking):
        raise UsageError(f"--query {query}: the record has {len(record.ranking)} queries with rankings, the first is 0")
    group = record.query_groups[query] if query < len(record.query_groups) else ""
    values = [
        f"{result.name} {result.per_query[query]:.3f}"
        for result in record.metrics
        if len(result.per_query) == len(record.ranking)
    ]
    items = ", ".join("none" if item < 0 else str(item) for item in record.ranking[query][:count])
    return [
        f"query {query}" + (f", group {shown(group)}" if group else ""),
        f"training items, strongest first: {items}",
        *values,
    ]


def _method(record: Record) -> list[str]:
    method = record.method
    options = ", ".join(f"{name}={value}" for name, value in method.options.items())
    return [
        f"{method_text(record)}, version {method.version}, of {shown(method.distribution)}",
        shown(method.summary),
        *([shown(options)] if options else []),
    ]


def _task(record: Record) -> list[str]:
    task = record.task
    return [f"{shown(task.label)} v{task.version}", f"fingerprint {shown(task.fingerprint)}"]


def _coverage(record: Record) -> list[str]:
    coverage = record.coverage
    lines = [
        f"{coverage.train_items} of {coverage.train_total} training items,"
        f" {coverage.queries} of {coverage.queries_total} queries"
    ]
    return lines + [f"{len(coverage.nonfinite)} gradients were NaN or infinite"] * bool(coverage.nonfinite)


def _metrics(record: Record) -> list[str]:
    results = {result.name: result for result in record.metrics}
    rows = [
        [
            shown(result.name),
            metric_text(result) or "not finite",
            "" if result.random is None else f"{result.random:.3f}",
            "" if result.ceiling is None else f"{result.ceiling:.3f}",
        ]
        for result in map(results.__getitem__, criteria_first(record, results))
    ]
    return text_table(("", "value", "random", "ceiling"), rows, left=(0, 1)) if rows else ["none"]


def _tuned(record: Record) -> list[str]:
    tuned = record.tuned
    if tuned is None:
        return []
    return [
        f"chosen among {len(tuned.tried)} values by {shown(tuned.by)} on {tuned.queries} tuning queries",
        shown(tuned.sweep),
    ]


def _cost(record: Record) -> list[str]:
    storage, latency = record.storage, record.latency
    if storage is None or latency is None:
        return []
    peaks = [("memory", record.peak_memory_bytes), ("device memory", record.peak_device_bytes)]
    return [
        f"storage {storage_text(storage)}",
        f"query {human_seconds(latency.query.p50)} (p50), {human_seconds(latency.query.p95)} (p95)",
        f"amortized {human_seconds(latency.cache + latency.fit)}",
        *(f"peak {name} {human_bytes(peak)}" for name, peak in peaks if peak),
    ]


def _machine(record: Record) -> list[str]:
    hardware = record.hardware
    load = "" if hardware.load is None else f"; other processes kept {hardware.load:g} cores busy"
    return [f"{shown(hardware.times_class)}, {human_bytes(hardware.memory_bytes)}{load}"]


def _software(record: Record) -> list[str]:
    source = record.provenance
    revision = "" if source.git_revision is None else f", commit {shown(source.git_revision)[:12]}"
    changed = ", with uncommitted changes" if source.git_dirty else ""
    packages = ", ".join(f"{name} {version}" for name, version in source.packages.items())
    return [
        f"attrbench {shown(source.attrbench)}{revision}{changed}, Python {shown(source.python)}",
        *([shown(packages)] if packages else []),
        f"seed {record.seed}, {shown(record.created)}",
    ]
