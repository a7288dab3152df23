"""The comparison of two runs on the same queries: paired differences, wins, and where they disagree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attrbench.contracts.record import MetricResult, Record
from attrbench.contracts.record_files import KeptRecord
from attrbench.errors import AttrbenchError, UsageError, unknown_name
from attrbench.metrics.bootstrap_comparisons import EQUAL
from attrbench.metrics.comparisons import have_different_banks, result_difference
from attrbench.reports.table_cells import criteria_first

TOP = 10
"""Number of items at the top whose overlap is told."""


@dataclass(frozen=True)
class Difference:
    """The paired difference of two runs by one metric.

    Attributes:
        metric: its name with the cut-off.
        a, b: the two results.
        value: mean of a - b over the queries.
        interval: its 95% interval, by which leaderboards decide; None where there is none.
        wins: number of queries on which a is better, on which b is, and on which they are equal.
    """

    metric: str
    a: MetricResult
    b: MetricResult
    value: float
    interval: tuple[float, float] | None
    wins: tuple[int, int, int]

    @property
    def of_other_models(self) -> bool:
        """Return whether the two were compared with different retrained models, so that there is no interval."""
        return have_different_banks(self.a, self.b)

    @property
    def better(self) -> str:
        """Return which run is significantly better, `A` or `B`; empty where the interval does not separate them.

        An end that is 0 but for rounding separates nothing, as on boards.
        """
        rounding = EQUAL * (abs(self.a.value) + abs(self.b.value))
        if self.interval is None or (self.interval[0] <= rounding and self.interval[1] >= -rounding):
            return ""
        return "A" if (self.value > 0) == self.a.higher_is_better else "B"


@dataclass(frozen=True)
class Disagreement:
    """One query on which two runs differ: its group, the values of both, and how much of their top they share.

    Attributes:
        shared: number of items that are in the top `TOP` of both.
        nearest: the first item of each.
    """

    query: int
    group: str
    a: float
    b: float
    shared: int
    nearest: tuple[int, int]


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same queries, compared.

    Attributes:
        a, b: their records.
        differences: by each metric that both have.
        overlap: mean share of the top `TOP` that both name; None where one has no rankings.
        disagreements: the queries with the largest difference by the first metric, largest first.
    """

    a: Record
    b: Record
    differences: Sequence[Difference]
    overlap: float | None
    disagreements: Sequence[Disagreement]


def compare_records(a: Record, b: Record, metrics: Sequence[str] = (), disagreements: int = 5) -> Comparison:
    """Return the comparison of two runs.

    Args:
        a: a record.
        b: another, of the same task, version, data and queries.
        metrics: names of metrics; by default all that both have, those that rank boards and the main metric first.
        disagreements: how many queries to name.

    Raises:
        UsageError: for a metric that one of them lacks.
        AttrbenchError: where they are not of the same queries, or have no metric in common.
    """
    if a.task.fingerprint != b.task.fingerprint or a.coverage.extent != b.coverage.extent:
        raise AttrbenchError(
            f"{a.method.label} on {a.task.label} and {b.method.label} on {b.task.label} can't be paired: they are not"
            f" of the same items and queries ({' and '.join(_extent_text(each) for each in (a, b))})"
        )
    known = [result.name for result in a.metrics if b.metric(result.name) is not None]
    for name in metrics:
        if name not in known:
            raise unknown_name("metric that both have", name, known)
    if not known:
        raise AttrbenchError(f"{a.method.label} and {b.method.label} have no metric in common")
    names = list(metrics) or criteria_first(a, known)
    differences = [_difference(name, a, b) for name in names]
    return Comparison(a, b, differences, _overlap(a, b), _disagreements(a, b, differences[0], disagreements))


def _extent_text(record: Record) -> str:
    return f"{record.coverage.train_items} items, {record.coverage.queries} queries"


def _difference(name: str, a: Record, b: Record) -> Difference:
    first, second = a.metric(name), b.metric(name)
    assert first is not None and second is not None
    sign = 1 if first.higher_is_better else -1
    ahead = [sign * (x - y) for x, y in zip(first.per_query, second.per_query, strict=False)]
    wins = sum(x > 0 for x in ahead), sum(x < 0 for x in ahead), sum(x == 0 for x in ahead)
    return Difference(name, first, second, first.value - second.value, result_difference(first, second), wins)


def _shared(a: Record, b: Record, query: int) -> int:
    return len(({*a.ranking[query][:TOP]} & {*b.ranking[query][:TOP]}) - {-1})


def _overlap(a: Record, b: Record) -> float | None:
    if not a.ranking or not b.ranking:
        return None
    return sum(_shared(a, b, query) for query in range(len(a.ranking))) / (len(a.ranking) * TOP)


def _disagreements(a: Record, b: Record, difference: Difference, count: int) -> list[Disagreement]:
    """Return the queries with the largest difference; none for metrics whose values are not one for each query."""
    first, second = difference.a.per_query, difference.b.per_query
    if not (len(first) == len(second) == len(a.ranking) == len(b.ranking)):
        return []
    order = sorted(range(len(first)), key=lambda query: -abs(first[query] - second[query]))
    groups = a.query_groups or [""] * len(first)
    return [
        Disagreement(
            query,
            groups[query],
            first[query],
            second[query],
            _shared(a, b, query),
            (a.ranking[query][0], b.ranking[query][0]),
        )
        for query in order[:count]
        if first[query] != second[query]
    ]


def pair_records(
    a: Sequence[KeptRecord], b: Sequence[KeptRecord], by_method: bool, tasks: Sequence[str] = ()
) -> list[tuple[Record, Record]]:
    """Return the pairs of runs of two sets that are of the same task and queries, and of the same method if asked.

    Of several records with equal method, options and seed the newest counts.

    Args:
        a: records.
        b: others.
        by_method: whether a pair is of one method with equal options, as of two folders.
        tasks: names of the tasks that are wanted; empty for all.

    Raises:
        UsageError: where several methods of a set are meant.
        AttrbenchError: where there is no pair.
    """
    first, second = _by_key(a, by_method, tasks), _by_key(b, by_method, tasks)
    pairs = [(first[key], second[key]) for key in first if key in second]
    if not pairs:
        ran = [", ".join(sorted({_on(kept.record) for kept in side})[:4]) or "nothing" for side in (a, b)]
        raise AttrbenchError(f"no two records are of the same data and queries: {ran[0]}; {ran[1]}")
    return pairs


def _on(record: Record) -> str:
    return f"{record.method.label} on {record.task.label}"


def _by_key(records: Iterable[KeptRecord], by_method: bool, tasks: Sequence[str]) -> dict[tuple[str, ...], Record]:
    found: dict[tuple[str, ...], Record] = {}
    for record in sorted((kept.record for kept in records), key=lambda record: record.created):
        if tasks and record.task.name not in tasks:
            continue
        label = (record.method.label, "tuned" if record.tuned else "")
        key = (record.task.fingerprint, *map(str, record.coverage.extent), *(label if by_method else ()))
        other = found.get(key)
        if other is not None and (other.method.label, "tuned" if other.tuned else "") != label:
            raise UsageError(
                f"several methods are meant on {record.task.label}: {other.method.label} and {record.method.label};"
                " give one with its options, or the file of a record"
            )
        found[key] = record
    return found
