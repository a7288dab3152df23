"""The ranking of runs by their records: groups of comparable runs, ranks with ties, and the Pareto front."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.record import Control, MetricResult, Record, TaskInfo
from attrbench.metrics.comparisons import better_runs

SEPARATORS = re.compile(r"[/\\]")
"""What divides the parts of a path, on any system."""


@dataclass(frozen=True)
class Row:
    """One run in a leaderboard table: its record, its rank, and whether it is on the Pareto front.

    Attributes:
        record: the record of the run.
        rank: 1 + the number of rows above the first run that is beaten by as many methods as this one, so that after
            three firsts comes the fourth; None if the run is not ranked.
        pareto: whether the run is significantly better than a random ranking, and no other ranked run is at least as
            good, as small and as fast, and better in one of these.
        reason: why the run is not ranked.
        tied: whether other runs have the same rank.
    """

    record: Record
    rank: int | None
    pareto: bool = False
    reason: str = ""
    tied: bool = False

    @property
    def place(self) -> str:
        """Return the rank as text, with `=` where others share it; empty for a run that is not ranked."""
        return "" if self.rank is None else f"{self.rank}{'=' * self.tied}"


@dataclass(frozen=True)
class Table:
    """A leaderboard table of comparable runs: those on one task version, query set and hardware class.

    Attributes:
        metric: name of the metric that ranks.
        ranked: complete runs, best first.
        below: runs that are not ranked: limited, partial and failed runs, runs that only measure costs, and runs with
            values that are NaN or infinite.
        random: expected value of `metric` for a uniformly random ranking.
        ceiling: best value of `metric` that any ranking could reach.
        controls: for a metric from a ground truth, its values for control sets of items, the newest of each.
        hidden: number of runs that were ranked with these and are not shown.
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
    hidden: int = 0

    def of_methods(self, names: Collection[str]) -> Table:
        """Return the table with the runs of some methods alone, named with or without options; ranks stay."""

        def rows(runs: Sequence[Row]) -> list[Row]:
            return [row for row in runs if not {row.record.method.name, row.record.method.label}.isdisjoint(names)]

        ranked, below = rows(self.ranked), rows(self.below)
        hidden = len(self.ranked) + len(self.below) - len(ranked) - len(below)
        return replace(self, ranked=ranked, below=below, hidden=self.hidden + hidden)


def build_tables(records: Sequence[Record], metric: str | None = None) -> list[Table]:
    """Group records into leaderboard tables by task, version, query set and hardware class, and rank each.

    Args:
        records: any records; of those with equal method, options and seed only the newest counts.
        metric: name of the metric that ranks; by default each task's main metric.
    """
    groups: dict[tuple[str, int, str, str], list[Record]] = {}
    for record in _newest(records):
        task = record.task
        key = (task.name, task.version, task.fingerprint, record.hardware.times_class)
        groups.setdefault(key, []).append(record)
    return [_table(groups[key], metric or groups[key][0].task.main_metric) for key in sorted(groups)]


def _newest(records: Sequence[Record]) -> list[Record]:
    newest: dict[tuple[object, ...], Record] = {}
    for record in sorted(records, key=lambda r: r.created):
        coverage = record.coverage
        key = (
            record.task.fingerprint,
            record.hardware.times_class,
            record.method.name,
            _options_key(record),
            record.seed,
            coverage.train_items,
            coverage.queries,
        )
        newest[key] = record
    return list(newest.values())


def _options_key(record: Record) -> tuple[object, ...]:
    """Return a key to tell runs of one method apart: the options, or for tuned runs the values chosen from."""
    if record.tuned is not None:
        return ("tuned", record.tuned.by, *sorted(tried.label for tried in record.tuned.tried))
    return tuple(sorted((name, repr(value)) for name, value in record.method.options.items()))


def _table(records: Sequence[Record], metric: str) -> Table:
    reasons = [_reason(record, metric) for record in records]
    complete = [record for record, reason in zip(records, reasons, strict=True) if not reason]
    complete.sort(key=lambda record: _quality(record, metric), reverse=True)
    below = [Row(record, None, reason=reason) for record, reason in zip(records, reasons, strict=True) if reason]
    below.sort(key=lambda row: row.record.method.label)
    results = [_result(record, metric) for record in complete]
    ranks = _ranks(better_runs(results)).tolist()
    shared = Counter(ranks)
    example = complete[0] if complete else records[0]
    return Table(
        task=task_title(example.task),
        version=example.task.version,
        hardware=example.hardware.times_class,
        metric=metric,
        ranked=[
            Row(record, rank, bool(undominated and _above_chance(result)), tied=shared[rank] > 1)
            for record, result, rank, undominated in zip(
                complete, results, ranks, _undominated(complete, metric), strict=True
            )
        ],
        below=below,
        random=_finite(results[0].random) if results else None,
        ceiling=_finite(results[0].ceiling) if results else None,
        train_items=example.coverage.train_total,
        queries=example.coverage.queries_total,
        controls=_controls(complete, metric),
    )


def _ranks(better: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the ranks of runs, best value first: those that equally many beat share the place of the first of them.

    Args:
        better: [n] the number of runs that are significantly better than each. A run is never put before one with a
            better value.
    """
    levels = np.maximum.accumulate(better)
    ranks: NDArray[np.int64] = 1 + np.searchsorted(levels, levels)
    return ranks


def task_title(task: TaskInfo) -> str:
    """Return a task's name and the options that were given, as a board's heading; of a path only the last part."""
    options = (f"{name}={SEPARATORS.split(value)[-1]}" for name, value in task.options_given.items())
    return ":".join(filter(None, (task.name, ",".join(options))))


def _controls(records: Sequence[Record], metric: str) -> list[Control]:
    """Return the results of the ground truth's controls in all records, best first, one for each name.

    Records estimate the noise of training from different models, so that equal controls may have unequal intervals;
    the widest one is kept.
    """
    newest: dict[str, Control] = {}
    for record in sorted(records, key=lambda record: record.created):
        for control in record.controls:
            if control.result.name == metric and control.result.finite:
                name = control.name if control.shared else f"{control.name}, as {record.method.label}"
                known = newest.get(name)
                if known is None or known.result.value != control.result.value or _width(known) < _width(control):
                    newest[name] = control.model_copy(update={"name": name})
    return sorted(newest.values(), key=lambda control: control.result.value, reverse=True)


def _width(control: Control) -> float:
    low, high = control.result.low, control.result.high
    return 0.0 if low is None or high is None else high - low


def _result(record: Record, metric: str) -> MetricResult:
    result = record.metric(metric)
    assert result is not None
    return result


def _quality(record: Record, metric: str) -> float:
    """Return a run's value of the metric, negated if smaller is better, so that larger is better."""
    result = _result(record, metric)
    return result.value if result.higher_is_better else -result.value


def _above_chance(result: MetricResult) -> bool:
    """Return whether a run's 95% interval is better than a random ranking; True if either is unknown."""
    if result.random is None or result.low is None or result.high is None:
        return True
    return result.low > result.random if result.higher_is_better else result.high < result.random


def _undominated(records: Sequence[Record], metric: str) -> NDArray[np.bool_]:
    """Return for each run whether no other is at least as good, as small and as fast, and better in one of these."""
    costs = np.array([_costs(record, metric) for record in records]).reshape(-1, 3)
    columns = np.ascontiguousarray(costs.T)
    undominated = np.ones(len(costs), dtype=np.bool_)
    for place, own in enumerate(costs):
        good, small, fast = (column >= value for column, value in zip(columns, own, strict=True))
        others = np.flatnonzero(good & small & fast)
        undominated[place] = (costs[others] == own).all()
    return undominated


def _costs(record: Record, metric: str) -> tuple[float, float, float]:
    """Return a run's (quality, -storage bytes, -seconds for a query), larger is better, for the Pareto front."""
    assert record.storage is not None and record.latency is not None
    return _quality(record, metric), -record.storage.total, -record.latency.query.p50


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _reason(record: Record, metric: str) -> str:
    """Return why a run is not ranked; an empty string for a run that is."""
    coverage, result = record.coverage, record.metric(metric)
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
    if result is None:
        return f"no {metric}" + "".join(f"; {note}" for note in record.notes)
    if not result.finite:
        return f"{metric} has values that are NaN or infinite"
    if record.storage is None or record.latency is None:
        return "no storage or no times"
    return "" if record.latency.finite else "times that are NaN or infinite"
