"""The leaderboard of a set of records, as an object that converts to tables and shows as HTML in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from attrbench.contracts.record import Record
from attrbench.errors import AttrbenchError, UsageError, unknown_name
from attrbench.reports.columns import request_columns, sorted_rows
from attrbench.reports.criteria import Criteria, criteria_of
from attrbench.reports.leaderboard_table import row_values, to_csv, to_json, to_markdown
from attrbench.reports.printed import line_length, printed
from attrbench.reports.ranking import Table, build_tables
from attrbench.reports.terminal_board import to_rich

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Leaderboard:
    """The ranking of methods by the records of their runs, which a notebook shows as HTML tables.

    Attributes:
        tables: one table for each task, version and set of queries.
    """

    tables: Sequence[Table]

    def to_markdown(self, columns: Sequence[str] = (), sort: str = "rank") -> str:
        """Return the leaderboard as Markdown text, with one section for each table.

        Args:
            columns: names of columns and metrics, such as `average-precision`; by default the usual ones.
            sort: the column or metric by which ranked runs are sorted.

        Raises:
            UsageError: for a name that is no column or metric.
        """
        return to_markdown(self.tables, columns, sort)

    def to_csv(self, columns: Sequence[str] = (), sort: str = "rank") -> str:
        """Return the leaderboard as CSV text, one line for each run, in bytes and seconds; as `to_markdown`."""
        return to_csv(self.tables, columns, sort)

    def to_json(self, columns: Sequence[str] = (), sort: str = "rank") -> str:
        """Return the leaderboard as JSON text, a list of tables with all their runs; as `to_markdown`."""
        return to_json(self.tables, columns, sort)

    def to_rich(self, width: int | None = None, columns: Sequence[str] = (), sort: str = "rank") -> RenderableType:
        """Return the leaderboard as text that rich prints on a terminal of a width; as `to_markdown`."""
        boards = (to_rich(table, width, columns, sorted_rows(table, sort)) for table in self.tables)
        return Group(*(part for board in boards for part in (board, Text())))

    def criteria(self, metrics: Sequence[str] = ()) -> list[Criteria | None]:
        """Return for each table how alike several metrics order its runs; None for one metric or under three runs.

        Args:
            metrics: their names; by default those that could rank, the ground truths' and the task's main metric.

        Raises:
            UsageError: for a name that is no metric of the runs.
        """
        columns = request_columns(metrics, self.tables, ["criteria"])
        if costs := [column.name for column in columns if column.metric is None]:
            raise UsageError(f"{costs[0]} is a column of costs or names, and no metric")
        return [criteria_of(table, [column.metric for column in columns if column.metric]) for table in self.tables]

    def to_pandas(self) -> pd.DataFrame:
        """Return the leaderboard as a pandas data frame with one row for each run and the columns of `to_csv`."""
        return data_frame([row_values(table, row) for table in self.tables for row in [*table.ranked, *table.below]])

    def _repr_html_(self) -> str:
        from attrbench.reports.html_table import to_html  # with Jinja and SciPy's statistics, for notebooks alone

        return to_html(self.tables)

    def __str__(self) -> str:
        return printed(self.to_rich(line_length()))

    def __repr__(self) -> str:
        tables = ", ".join(f"{table.task}: {len(table.ranked)} ranked, {len(table.below)} not" for table in self.tables)
        return f"<Leaderboard of {tables}>"


def rank_records(
    records: Sequence[Record],
    tasks: Sequence[str] = (),
    metric: str | None = None,
    methods: Sequence[str] = (),
    hardware: Sequence[str] = (),
    highlight: Sequence[str] = (),
) -> Leaderboard:
    """Rank the runs in these records by a metric, and return the leaderboard with a table for each task.

    Args:
        records: records of runs.
        tasks: names of the tasks to show; empty for all.
        metric: the metric to rank by, such as `average-precision`; by default the main metric of each task.
        methods: the methods to show, with or without options; empty for all. Ranks are among all.
        hardware: parts of the names of the classes of hardware to show; empty for all.
        highlight: the methods whose runs stand out in a report, with or without options.

    Raises:
        UsageError: for a task, metric, method or class of hardware that no record has.
        AttrbenchError: where there is no record.
    """
    names = {record.task.name for record in records}
    for name in tasks:
        if name not in names:
            raise unknown_name("task among the records", name, names)
    if metric is not None:
        known = {result.name for record in records for result in record.metrics}
        if metric not in known:
            raise unknown_name("metric among the records", metric, known)
    chosen = [record for record in records if not tasks or record.task.name in tasks]
    tables = build_tables(_on_hardware(chosen, hardware), metric)
    if not tables:
        raise AttrbenchError("no records found: run 'attrbench run' first, or name a folder of records")
    check_methods(chosen, [*methods, *highlight])
    tables = [replace(table, highlight=frozenset(highlight)) for table in tables]
    return Leaderboard(_of_methods(tables, methods) if methods else tables)


def _on_hardware(records: Sequence[Record], parts: Sequence[str]) -> list[Record]:
    classes = {record.hardware.times_class for record in records}
    for part in parts:
        if not any(part.lower() in name.lower() for name in classes):
            raise unknown_name("hardware among the records", part, classes)
    names = {name for name in classes if not parts or any(part.lower() in name.lower() for part in parts)}
    return [record for record in records if record.hardware.times_class in names]


def check_methods(records: Sequence[Record], methods: Sequence[str]) -> None:
    """Refuse names of methods, with or without options, that no record has.

    Raises:
        UsageError: for such a name.
    """
    known = {name for record in records for name in (record.method.name, record.method.label)}
    for name in methods:
        if name not in known:
            raise unknown_name("method among the records", name, known)


def _of_methods(tables: Sequence[Table], methods: Sequence[str]) -> list[Table]:
    shown = [table.of_methods(methods) for table in tables]
    return [table for table in shown if table.ranked or table.below]


def data_frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return a pandas data frame of rows given as dicts (column name -> value).

    Raises:
        AttrbenchError: where pandas is not installed.
    """
    try:
        import pandas as pd  # optional
    except ImportError:
        raise AttrbenchError("to_pandas needs pandas, which is not installed: 'pip install pandas'") from None
    return pd.DataFrame(rows)
