"""Tables of what retraining, known origins and detection rate say of each method, one column a criterion and board.

Parts of a page, as those of `method_tables`, which `tests/test_record_pages.py` compares and writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrbench.contracts.record import MetricResult
from attrbench.plugins.registry import Registry
from attrbench.reports.criteria import criteria_of
from attrbench.reports.leaderboard_table import markdown_text
from attrbench.reports.ranking import Table
from docs._site.default_runs import default_runs, value_text

RETRAINED = ("lds", "lds-balanced", "lds-over-others", "lds-pixels", "group-top1")
"""Measures of retrained models, in the order of their columns; a task's main metric follows."""
LEAST_RUNS = 10
"""Runs that a board must have."""


def boards_with_an_answer(tables: Sequence[Table]) -> list[Table]:
    """Return the boards that are ranked by retrained models or known origins, not by a detection rate."""
    return [
        table for table in tables if not table.metric.startswith("detection-rate") and len(table.ranked) >= LEAST_RUNS
    ]


def criteria_rows(tables: Sequence[Table], registry: Registry) -> str:
    """Return every method by each criterion of each board, at its defaults and with the other policy of noise."""
    columns = [(table, name) for table in tables for name in _measures(table)]
    runs = {table.task: default_runs(table, registry, free=("noise",)) for table in tables}
    titles = [f"{markdown_text(name)}<br>{markdown_text(table.task)}" for table, name in columns]
    lines = [
        f"| method | {' | '.join(titles)} |",
        f"|---|{'--:|' * len(columns)}",
    ]
    for label in sorted({label for found in runs.values() for label in found}, key=lambda label: label.split(":")):
        cells = [value_text(runs[table.task].get(label), name) for table, name in columns]
        lines.append(f"| {markdown_text(label)} | {' | '.join(cells)} |")
    for title, attribute in (("*random ranking*", "random"), ("*ceiling*", "ceiling")):
        found = [getattr(_any_result(table, name), attribute) for table, name in columns]
        cells = ["" if value is None else f"{value:.3f}" for value in found]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def agreement_rows(tables: Sequence[Table]) -> str:
    """Return how alike each two criteria of a board order its runs, with the 95% interval over methods."""
    lines = ["| board | criteria | rank correlation | 95% interval | runs |", "|---|---|--:|--:|--:|"]
    for table in tables:
        found = criteria_of(table, _measures(table))
        for (one, other), agreement in (found.agreements if found else {}).items():
            if agreement is not None and agreement.low is not None:
                interval = f"[{agreement.low:.2f}, {agreement.high:.2f}]"
                cells = (
                    markdown_text(table.task),
                    markdown_text(f"{one}, {other}"),
                    f"{agreement.value:.2f}",
                    interval,
                )
                lines.append(f"| {' | '.join(cells)} | {agreement.runs} |")
    return "\n".join([*lines, ""])


def _measures(table: Table) -> list[str]:
    """Return the names of a board's columns: the measures of retrained models that its runs have, and its main one."""
    known = {result.name for row in table.ranked for result in row.record.metrics}
    return list(
        dict.fromkeys([*(name for name in RETRAINED if name in known), table.ranked[0].record.task.main_metric])
    )


def _any_result(table: Table, name: str) -> MetricResult:
    """Return a result of the metric; its random value and ceiling are those of all."""
    found = (row.record.metric(name) for row in table.ranked)
    return next(result for result in found if result is not None)
