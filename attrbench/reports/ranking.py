"""The ranking of runs by their records: groups of comparable runs, ranks with ties, and the Pareto front."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from string import ascii_lowercase

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
        pareto: whether the run is significantly better than a random ranking, and no other ranked run of the same
            class of hardware is at least as good, as small and as fast, and better in one of these.
        reason: why the run is not ranked.
        tied: whether other runs have the same rank.
        machine: letter of its class of hardware in a table of several; empty in one of a single class.
    """

    record: Record
    rank: int | None
    pareto: bool = False
    reason: str = ""
    tied: bool = False
    machine: str = ""

    def is_of(self, names: Collection[str]) -> bool:
        """Return whether the run's method, with or without its options, is among names."""
        return not {self.record.method.name, self.record.method.label}.isdisjoint(names)

    @property
    def place(self) -> str:
        """Return the rank as text, with `=` where others share it; empty for a run that is not ranked."""
        return "" if self.rank is None else f"{self.rank}{'=' * self.tied}"


@dataclass(frozen=True)
class Table:
    """A leaderboard table of comparable runs: those on one task version and query set.

    Quality is compared across machines, times only within a class of hardware.

    Attributes:
        machines: the classes of hardware of its runs, that of most runs first; rows name them by letters: a, b, ...
        metric: name of the metric that ranks.
        criteria: names of the ground truths' metrics that could rank, and of the task's main metric.
        ranked: complete runs, best first.
        below: runs that are not ranked: limited, partial and failed runs, runs that only measure costs, and runs with
            values that are NaN or infinite.
        random: expected value of `metric` for a uniformly random ranking.
        ceiling: best value of `metric` that any ranking could reach.
        controls: for a metric from a ground truth, its values for control sets of items, the newest of each.
        hidden: number of runs that were ranked with these and are not shown.
        highlight: names of methods, with or without options, whose runs stand out.
    """

    task: str
    version: int
    machines: Sequence[str]
    metric: str
    criteria: Sequence[str]
    ranked: list[Row]
    below: list[Row]
    random: float | None
    ceiling: float | None
    train_items: int
    queries: int
    controls: list[Control]
    hidden: int = 0
    highlight: Collection[str] = ()

    @property
    def hardware(self) -> str:
        """Return the class of hardware as text, or how many there are."""
        return self.machines[0] if len(self.machines) == 1 else f"{len(self.machines)} classes of hardware"

    @cached_property
    def full_bar(self) -> float:
        """Return the value of the metric at which a bar is full: its ceiling, or a better value of a ranked run."""
        found = (row.record.metric(self.metric) for row in self.ranked)
        return max([self.ceiling or 0.0, *(result.value for result in found if result is not None)])

    def of_methods(self, names: Collection[str]) -> Table:
        """Return the table with the runs of some methods alone, named with or without options; ranks stay."""

        def rows(runs: Sequence[Row]) -> list[Row]:
            return [row for row in runs if row.is_of(names)]

        ranked, below = rows(self.ranked), rows(self.below)
        hidden = len(self.ranked) + len(self.below) - len(ranked) - len(below)
        return replace(self, ranked=ranked, below=below, hidden=self.hidden + hidden)


def build_tables(records: Sequence[Record], metric: str | None = None) -> list[Table]:
    """Group records into leaderboard tables by task, version and query set, and rank each.

    Args:
        records: any records; of those with equal method, options, seed and class of hardware only the newest counts.
        metric: name of the metric that ranks; by default the ground truth's, where at least half of the complete runs
            on a task have one, and else the task's main metric.
    """
    groups: dict[tuple[str, int, str], list[Record]] = {}
    for record in _newest(records):
        groups.setdefault((record.task.name, record.task.version, record.task.fingerprint), []).append(record)
    return [_table(groups[key], metric) for key in sorted(groups)]


def _criteria(records: Sequence[Record]) -> list[str]:
    """Return the metrics by which runs on one task can be ranked, the one that ranks first; the main metric is one.

    A ground truth's metric comes before the main metric where at least half of the complete runs have it, so that one
    run with a ground truth of its own does not push the others off the board.
    """
    complete = [record for record in records if record.status == "complete"]
    named = [[result.name for result in record.metrics if result.criterion and result.finite] for record in complete]
    found = Counter(name for names in sorted(named, key=len, reverse=True) for name in names)  # in the order of most
    usual = [name for name, count in found.items() if 2 * count >= len(complete)]
    rare = [name for name in found if name not in usual]
    return list(dict.fromkeys([*usual, records[0].task.main_metric, *rare]))


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


def _table(records: Sequence[Record], asked: str | None) -> Table:
    criteria = _criteria(records)
    metric = asked or criteria[0]
    machines = [name for name, _ in sorted(_classes(records).items(), key=lambda item: (-item[1], item[0]))]
    letters = dict(zip(machines, _letters(len(machines)), strict=True))
    reasons = [_reason(record, metric) for record in records]
    complete = [record for record, reason in zip(records, reasons, strict=True) if not reason]
    complete.sort(key=lambda record: _quality(record, metric), reverse=True)
    below = [
        Row(record, None, reason=reason, machine=letters[record.hardware.times_class])
        for record, reason in zip(records, reasons, strict=True)
        if reason
    ]
    below.sort(key=lambda row: row.record.method.label)
    results = [_result(record, metric) for record in complete]
    ranks = _ranks(better_runs(results)).tolist()
    shared = Counter(ranks)
    example = complete[0] if complete else records[0]
    return Table(
        task=task_title(example.task),
        version=example.task.version,
        machines=machines,
        metric=metric,
        criteria=criteria,
        ranked=[
            Row(
                record,
                rank,
                bool(undominated and _above_chance(result)),
                tied=shared[rank] > 1,
                machine=letters[record.hardware.times_class],
            )
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


def _classes(records: Sequence[Record]) -> Counter[str]:
    return Counter(record.hardware.times_class for record in records)


def _letters(count: int) -> list[str]:
    """Return a name for each of so many classes of hardware: a to z, then a2, b2 and so on; one needs none."""
    if count == 1:
        return [""]
    rounds = (f"{i // 26 + 1}" if i >= 26 else "" for i in range(count))
    return [f"{ascii_lowercase[i % 26]}{suffix}" for i, suffix in enumerate(rounds)]


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
    """Return for each run whether no other is at least as good, as small and as fast, and better in one of these.

    Only runs of one class of hardware are compared, since times of different ones can't be.
    """
    costs = [_costs(record, metric) for record in records]
    undominated = np.ones(len(records), dtype=np.bool_)
    fronts: dict[str, list[tuple[float, float, float]]] = {}
    for place in sorted(range(len(records)), key=costs.__getitem__, reverse=True):  # no later one dominates an earlier
        front, own = fronts.setdefault(records[place].hardware.times_class, []), costs[place]
        if front[-1:] == [own]:
            continue
        undominated[place] = not any(small >= own[1] and fast >= own[2] for _, small, fast in front)
        if undominated[place]:
            front.append(own)
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
        told = any(note.startswith(f"no {metric}") for note in record.notes)
        return "; ".join([*([] if told else [f"no {metric}"]), *record.notes])
    if not result.finite:
        return f"{metric} has values that are NaN or infinite"
    if record.storage is None or record.latency is None:
        return "no storage or no times"
    return "" if record.latency.finite else "times that are NaN or infinite"
