"""The agreement of a board's metrics: rank correlations over its runs, and the runs that two place most apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.record import Record
from attrbench.metrics.metric_agreement import MetricAgreement, metric_agreement, weighted_ranks
from attrbench.reports.columns import quality
from attrbench.reports.leaderboard_table import markdown_line, markdown_text
from attrbench.reports.ranking import Table
from attrbench.reports.table_cells import method_text, shown
from attrbench.reports.text_table import text_table

APART = 3
"""Runs named for each direction in which two metrics differ most."""


@dataclass(frozen=True)
class Criteria:
    """The complete runs of a board by several of its metrics, and how alike these order them.

    Attributes:
        table: the board.
        metrics: names of the metrics; the first is what the others are held against.
        records: [n] the complete runs that have at least two of the metrics.
        values: [n, c] their values with the sign by which larger is better; NaN where a run has none.
    """

    table: Table
    metrics: Sequence[str]
    records: Sequence[Record]
    values: NDArray[np.float64]

    @cached_property
    def agreements(self) -> Mapping[tuple[str, str], MetricAgreement | None]:
        """Return the agreement of each two metrics, in the order of the metrics."""
        methods = [record.method.name for record in self.records]
        return {
            (first, second): metric_agreement(self.values[:, i], self.values[:, j], methods)
            for i, first in enumerate(self.metrics)
            for j, second in enumerate(self.metrics)
            if i < j
        }

    def apart(self, other: str) -> tuple[list[tuple[Record, float, float]], list[tuple[Record, float, float]]]:
        """Return the runs that another metric puts furthest ahead, and furthest behind, of where the first has them.

        Each with its place by the first metric and by the other, counted from 1; the mean of the places it shares.
        """
        both = self.values[:, [0, self.metrics.index(other)]]
        chosen = np.flatnonzero(np.isfinite(both).all(axis=1)).tolist()
        records, once = [self.records[place] for place in chosen], np.ones((1, len(chosen)))
        first, second = (weighted_ranks(-values, once)[0] for values in both[chosen].T)
        order = np.argsort(second - first, kind="stable")
        runs = [(records[i], float(first[i]), float(second[i])) for i in order]
        ahead = [run for run in runs[:APART] if run[2] < run[1]]
        return ahead, [run for run in runs[: -APART - 1 : -1] if run[2] > run[1]]


def criteria_of(table: Table, names: Sequence[str]) -> Criteria | None:
    """Return a board's runs by the metric that ranks and others; None for one metric, or fewer than three runs.

    Args:
        table: the board.
        names: names of metrics; those that no run of the board has are passed over.
    """
    runs = [row.record for row in [*table.ranked, *table.below] if row.record.status == "complete"]
    known = {result.name for record in runs for result in record.metrics}
    metrics = [name for name in dict.fromkeys([table.metric, *names]) if name in known]
    values = np.array([[_value(record, name) for name in metrics] for record in runs]).reshape(len(runs), len(metrics))
    chosen = np.isfinite(values).sum(axis=1) >= 2
    if chosen.sum() < 3:
        return None
    return Criteria(table, metrics, [run for run, has in zip(runs, chosen, strict=True) if has], values[chosen])


def _value(record: Record, name: str) -> float:
    found = quality(record.metric(name))
    return math.nan if found is None else -found


def criteria_lines(found: Criteria) -> list[str]:
    """Return the agreement of a board's metrics as lines of plain text."""
    table = text_table(["", *map(shown, found.metrics[1:])], [[shown(row[0]), *row[1:]] for row in _matrix(found)])
    return [*table, "", *_differences(found)]


def criteria_markdown(found: Criteria) -> list[str]:
    """Return the agreement of a board's metrics as lines of Markdown."""
    lines = [markdown_line(["", *map(shown, found.metrics[1:])]), "|---" + "|--:" * (len(found.metrics) - 1) + "|"]
    lines += [markdown_line([shown(row[0]), *row[1:]]) for row in _matrix(found)]
    return [*lines, "", *(f"- {markdown_text(line)}" for line in _differences(found))]


def criteria_document(found: Criteria) -> dict[str, object]:
    """Return the agreement of a board's metrics as an object for JSON."""
    return {
        "task": found.table.task,
        "version": found.table.version,
        "metrics": list(found.metrics),
        "agreements": [
            {
                "metrics": list(pair),
                "spearman": agreement.value,
                "low": agreement.low,
                "high": agreement.high,
                "runs": agreement.runs,
            }
            for pair, agreement in found.agreements.items()
            if agreement is not None
        ],
    }


def _matrix(found: Criteria) -> list[list[str]]:
    """Return a row of texts for each metric but the last: its name, and its agreement with each later metric."""
    return [
        [first, *(_cell(found.agreements.get((first, second))) for second in found.metrics[1:])]
        for first in found.metrics[:-1]
    ]


def _cell(agreement: MetricAgreement | None) -> str:
    if agreement is None:
        return ""
    if agreement.low is None or agreement.high is None:
        return f"{agreement.value:.2f}"
    return f"{agreement.value:.2f} [{agreement.low:.2f}, {agreement.high:.2f}]"


def _differences(found: Criteria) -> list[str]:
    """Return a line on the runs and interval, and one for each metric on whom it places most unlike the first."""
    first, runs = shown(found.metrics[0]), len(found.records)
    methods = len({record.method.name for record in found.records})
    lines = [
        f"Spearman's rank correlation over {runs} runs, sanity checks among them; 95% interval over {methods} methods.",
        f"In brackets below: a run's place by {first} → its place by the other.",
    ]
    for other in found.metrics[1:]:
        for direction, named in zip(("ahead", "behind"), found.apart(other), strict=True):
            if named:
                texts = (f"{method_text(record)} ({was:g} → {now:g})" for record, was, now in named)
                lines.append(f"Further {direction} by {shown(other)} than by {first}: {', '.join(texts)}.")
    return lines
