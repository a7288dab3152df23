"""The board of a report: a leaderboard's rows as cells, with the values that sorting goes by and interval bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from attrbench.contracts.record import MetricResult, Record
from attrbench.reports.columns import expected_text
from attrbench.reports.html.scale import Scale, linear
from attrbench.reports.ranking import Row, Table
from attrbench.reports.table_cells import (
    caption,
    interval_text,
    method_text,
    shown,
    storage_text,
    time_text,
)

BAR = 120
"""Width in pixels of the bars that show intervals."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, the number by which a column is sorted (None for what has none), and a remark."""

    text: str
    number: float | None = None
    remark: str = ""


@dataclass(frozen=True)
class Bar:
    """An interval drawn beside its numbers, in pixels from 0 to `BAR`; None for what is not known."""

    value: float
    low: float | None
    high: float | None
    zero: float | None = None


@dataclass(frozen=True)
class BoardRow:
    """A row of the board.

    Attributes:
        rank: as text, with `=` where it is shared.
        number: the rank as a number; None for a run that is not ranked.
        method: label of the method.
        tuned: whether its options were chosen on tuning queries.
        value, interval: of the metric that ranks.
        criteria: values of the other metrics that could rank, in the order of the board's.
        bar: the interval as a picture.
        costs: storage, query times, amortized time and recall of approximate search.
        machine: letter of its class of hardware, where the board has several.
        pareto: whether no other run is at least as good, small and fast.
        reason: why it is not ranked.
        anchor: id of the row's provenance.
        stands_out: whether it is of a method that is to be highlighted.
    """

    rank: str
    number: int | None
    method: str
    tuned: bool
    value: Cell
    interval: str
    bar: Bar | None
    criteria: Sequence[Cell]
    costs: Sequence[Cell]
    machine: str
    pareto: bool
    reason: str
    anchor: str
    stands_out: bool


@dataclass(frozen=True)
class Reference:
    """A row to compare with: a control of the ground truth, or the expectation of a random ranking."""

    name: str
    value: str
    interval: str
    bar: Bar | None
    criteria: Sequence[str]


@dataclass(frozen=True)
class Board:
    """A leaderboard table for a template.

    Attributes:
        task, metric, hardware: the headings.
        rows: ranked runs, best first; `below` those that are not ranked.
        references: what to compare with.
        random, ceiling: places of the two on the bars; None for what is not known.
        notes: the lines below it.
        criteria: the other metrics that could rank.
        has_recall: whether a run has an approximate search.
        has_machines: whether the runs are of several classes of hardware.
    """

    task: str
    metric: str
    hardware: str
    rows: Sequence[BoardRow]
    below: Sequence[BoardRow]
    references: Sequence[Reference]
    random: float | None
    ceiling: float | None
    notes: Sequence[str]
    criteria: Sequence[str]
    has_recall: bool
    has_machines: bool


def make_board(table: Table, prefix: str) -> Board:
    """Return the board of a leaderboard table; `prefix` begins the ids of its rows."""
    rows = [*table.ranked, *table.below]
    scale = _scale(table)
    cells = [_row(table, row, scale, f"{prefix}-run{place}") for place, row in enumerate(rows)]
    return Board(
        task=f"{shown(table.task)} v{table.version}",
        metric=shown(table.metric),
        hardware=shown(table.hardware),
        rows=cells[: len(table.ranked)],
        below=cells[len(table.ranked) :],
        references=_references(table, scale),
        random=None if table.random is None else scale.at(table.random),
        ceiling=None if table.ceiling is None else scale.at(table.ceiling),
        notes=caption(table),
        criteria=[shown(name) for name in _others(table)],
        has_machines=len(table.machines) > 1,
        has_recall=any(cell.costs[-1].text for cell in cells if cell.costs),
    )


def _others(table: Table) -> list[str]:
    """Return the metrics besides the one that ranks by which the runs could be ranked."""
    return [name for name in table.criteria if name != table.metric]


def bar_of(result: MetricResult, scale: Scale) -> Bar:
    """Return the value and interval of a metric as places on a bar."""
    low, high = (None if bound is None else scale.at(bound) for bound in (result.low, result.high))
    return Bar(scale.at(result.value), low, high)


def _scale(table: Table) -> Scale:
    """Return the scale of the bars: it holds all intervals, the controls, the random ranking and the ceiling."""
    results = [row.record.metric(table.metric) for row in [*table.ranked, *table.below]]
    results += [control.result for control in table.controls]
    found = [value for result in results if result for value in (result.low, result.value, result.high)]
    known = [value for value in (*found, table.random, table.ceiling) if value is not None and math.isfinite(value)]
    return linear(known or [0.0, 1.0], 2, BAR - 2)


def _row(table: Table, row: Row, scale: Scale, anchor: str) -> BoardRow:
    record, result = row.record, row.record.metric(table.metric)
    known = result if result is not None and result.finite else None
    return BoardRow(
        rank=row.place or "–",
        number=row.rank,
        method=shown(record.method.label),
        tuned=method_text(record) != shown(record.method.label),
        value=Cell("") if known is None else Cell(f"{known.value:.3f}", known.value),
        interval="" if known is None else interval_text(known),
        bar=None if known is None else bar_of(known, scale),
        criteria=[_criterion(record.metric(name)) for name in _others(table)],
        costs=_costs(record),
        machine=row.machine,
        pareto=row.pareto,
        reason=shown(row.reason),
        anchor=anchor,
        stands_out=row.is_of(table.highlight),
    )


def _criterion(result: MetricResult | None) -> Cell:
    if result is None or not result.finite:
        return Cell("")
    return Cell(f"{result.value:.3f}", result.value, interval_text(result))


def _costs(record: Record) -> list[Cell]:
    """Return storage, query p50 and p95, amortized time, and recall of the approximate search where there is one."""
    if record.storage is None or record.latency is None:
        return []
    recall, latency = record.metric("ann-recall@10"), record.latency
    times = (latency.query.p50, latency.query.p95, latency.cache + latency.fit)
    storage, _, remark = storage_text(record.storage).partition(" (")
    known = recall is not None and math.isfinite(recall.value)
    return [
        Cell(storage, record.storage.total, remark.removesuffix(")")),
        *(Cell(time_text(record, seconds), seconds if math.isfinite(seconds) else None) for seconds in times),
        Cell(f"{recall.value:.3f}", recall.value) if recall is not None and known else Cell(""),
    ]


def _references(table: Table, scale: Scale) -> list[Reference]:
    if table.controls:
        return [
            Reference(
                f"control: {shown(control.name)}",
                f"{control.result.value:.3f}",
                interval_text(control.result),
                bar_of(control.result, scale),
                [""] * len(_others(table)),
            )
            for control in table.controls
        ]
    if table.random is None:
        return []
    bar = Bar(scale.at(table.random), None, None)
    others = [expected_text(table, name) for name in _others(table)]
    return [Reference("random ranking (analytic)", f"{table.random:.3f}", "", bar, others)]
