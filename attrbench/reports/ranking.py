"""From records to tables: who is ranked with whom, ties, the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attrbench.contracts.record import Control, MetricResult, Record
from attrbench.metrics.intervals import paired_difference, retrained_interval


@dataclass(frozen=True)
class Row:
    """A run on a table.

    Attributes:
        record: the run.
        rank: 1 + the number of methods that are better beyond doubt, never less than that of a better value; None
            below the line.
        pareto: better than random beyond doubt, and no other ranked method is at least as good, as small and as
            fast, and better in one of these.
        reason: why the run stands below the line.
    """

    record: Record
    rank: int | None
    pareto: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Table:
    """Runs that may be compared: one task, version, set of queries and class of hardware.

    Attributes:
        metric: what ranks.
        ranked: complete runs, best first.
        below: limited, partial and failed runs, and scale runs: never ranked.
        random: expectation of `metric` under a uniformly random ranking.
        ceiling: the best value any ranking could reach.
        controls: where the metric is that of a ground truth: what other choices of items do, the newest of each.
    """

    task: str
    version: int
    hardware: str
    metric: str
    ranked: list[Row]
    below: list[Row]
    random: float | None
    ceiling: float | None
    train_items: int
    queries: int
    controls: list[Control]


def build_tables(records: Sequence[Record], metric: str | None = None) -> list[Table]:
    """One table for each task, version, query set and hardware class, in the order of their names.

    Args:
        records: any records; of several with equal method, options and seed only the newest counts.
        metric: what ranks; by default each task's main metric.
    """
    groups: dict[tuple[str, int, str, str], list[Record]] = {}
    for record in _newest(records):
        task = record.task
        key = (task.name, task.version, task.fingerprint, record.hardware.hardware_class)
        groups.setdefault(key, []).append(record)
    return [_table(groups[key], metric or groups[key][0].task.main_metric) for key in sorted(groups)]


def _newest(records: Sequence[Record]) -> list[Record]:
    newest: dict[tuple[object, ...], Record] = {}
    for record in sorted(records, key=lambda r: r.created):
        coverage = record.coverage
        key = (
            record.task.fingerprint,
            record.hardware.hardware_class,
            record.method.name,
            _options_key(record),
            record.seed,
            coverage.train_items,
            coverage.queries,
        )
        newest[key] = record
    return list(newest.values())


def _options_key(record: Record) -> tuple[object, ...]:
    """What tells rows of one method apart: its options; where these were chosen, what they were chosen from."""
    if record.tuned is not None:
        return ("tuned", record.tuned.by, *sorted(tried.label for tried in record.tuned.tried))
    return tuple(sorted((name, repr(value)) for name, value in record.method.options.items()))


def _table(records: Sequence[Record], metric: str) -> Table:
    complete = [
        record
        for record in records
        if record.status == "complete" and not record.task.scale and record.metric(metric) is not None
    ]
    complete.sort(key=lambda record: _quality(record, metric), reverse=True)
    below = [
        Row(record, None, reason=_reason(record, metric))
        for record in sorted(records, key=lambda r: r.method.label)
        if record not in complete
    ]
    ranks = [1 + sum(_beats(other, record, metric) for other in complete) for record in complete]
    first = next((result for record in complete if (result := record.metric(metric)) is not None), None)
    example = complete[0] if complete else records[0]
    return Table(
        task=example.task.label,
        version=example.task.version,
        hardware=example.hardware.hardware_class,
        metric=metric,
        ranked=[
            Row(
                record,
                rank=max(ranks[: place + 1]),
                pareto=_above_chance(record, metric)
                and not any(_dominates(other, record, metric) for other in complete),
            )
            for place, record in enumerate(complete)
        ],
        below=below,
        random=None if first is None else first.random,
        ceiling=None if first is None else first.ceiling,
        train_items=example.coverage.train_total,
        queries=example.coverage.queries_total,
        controls=_controls(complete, metric),
    )


def _controls(records: Sequence[Record], metric: str) -> list[Control]:
    """The controls of the records by name, best first; those that match one method's choice bear its name.

    Records estimate the noise of training from other models, so that equal controls may have unequal intervals: of
    those the widest stands.
    """
    newest: dict[str, Control] = {}
    for record in sorted(records, key=lambda record: record.created):
        for control in record.controls:
            if control.result.name == metric:
                name = control.name if control.shared else f"{control.name}, as {record.method.label}"
                known = newest.get(name)
                if known is None or known.result.value != control.result.value or _width(known) < _width(control):
                    newest[name] = control.model_copy(update={"name": name})
    return sorted(newest.values(), key=lambda control: control.result.value, reverse=True)


def _width(control: Control) -> float:
    low, high = control.result.low, control.result.high
    return 0.0 if low is None or high is None else high - low


def _quality(record: Record, metric: str) -> float:
    """The metric's value, turned so that larger is better."""
    result = record.metric(metric)
    assert result is not None
    return result.value if result.higher_is_better else -result.value


def _beats(a: Record, b: Record, metric: str) -> bool:
    """Whether a is better than b on the same queries, by a 95% paired interval that excludes 0.

    Results of other numbers of values (a ground truth with other seeds or pictures) are never told apart, nor are
    those without an interval.
    """
    mine, theirs = a.metric(metric), b.metric(metric)
    assert mine is not None and theirs is not None
    if (len(mine.per_query), mine.clusters) != (len(theirs.per_query), theirs.clusters):
        return False
    if mine.low is None or theirs.low is None:
        return False
    interval = _difference(mine, theirs) if mine.higher_is_better else _difference(theirs, mine)
    return interval is not None and interval[0] > 0


def _difference(a: MetricResult, b: MetricResult) -> tuple[float, float] | None:
    """The 95% interval of a - b, query by query, or picture by picture and seed by seed."""
    if a.noise is None or b.noise is None:
        return paired_difference(a.per_query, b.per_query)
    values = np.subtract(a.per_query, b.per_query).reshape(a.clusters, -1)
    error = math.hypot(a.noise.error, b.noise.error) / math.sqrt(2)  # two estimates of the same
    return retrained_interval(values, error, min(a.noise.freedom, b.noise.freedom))


def _dominates(a: Record, b: Record, metric: str) -> bool:
    mine, theirs = _costs(a, metric), _costs(b, metric)
    return all(x >= y for x, y in zip(mine, theirs, strict=True)) and mine != theirs


def _above_chance(record: Record, metric: str) -> bool:
    """Whether the interval lies on the good side of a random ranking; where that is unknown, yes."""
    result = record.metric(metric)
    assert result is not None
    if result.random is None or result.low is None or result.high is None:
        return True
    return result.low > result.random if result.higher_is_better else result.high < result.random


def _costs(record: Record, metric: str) -> tuple[float, float, float]:
    """Quality, minus bytes, minus seconds a query: larger is better in each."""
    assert record.storage is not None and record.latency is not None
    return _quality(record, metric), -record.storage.total, -record.latency.query.p50


def _reason(record: Record, metric: str) -> str:
    coverage = record.coverage
    if record.status == "failed":
        return f"failed: {record.error}"
    if record.task.scale:
        return f"scale run: {coverage.train_items} items, {coverage.queries} queries; no result, only costs"
    if record.status == "partial":
        return (
            f"partial: {len(coverage.nonfinite)} non-finite gradients"
            if coverage.nonfinite
            else "partial: items missing"
        )
    if record.status == "limited":
        return (
            f"limited: {coverage.train_items} of {coverage.train_total} items,"
            f" {coverage.queries} of {coverage.queries_total} queries"
        )
    return f"no {metric}" + "".join(f"; {note}" for note in record.notes)
