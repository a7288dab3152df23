"""The leaderboard of a set of records, as an object that converts to tables and shows as HTML in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attrbench.contracts.record import Record
from attrbench.errors import AttrbenchError, unknown_name
from attrbench.reports.html_table import to_html
from attrbench.reports.leaderboard_table import row_values, to_csv, to_json, to_markdown
from attrbench.reports.ranking import Table, build_tables

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Leaderboard:
    """The ranking of methods by the records of their runs, which a notebook shows as HTML tables.

    Attributes:
        tables: one table for each task, version, set of queries and class of hardware.
    """

    tables: Sequence[Table]

    def to_markdown(self) -> str:
        """Return the leaderboard as Markdown text, with one section for each table."""
        return to_markdown(self.tables)

    def to_csv(self) -> str:
        """Return the leaderboard as CSV text, with one line for each run, in bytes and seconds."""
        return to_csv(self.tables)

    def to_json(self) -> str:
        """Return the leaderboard as JSON text, a list of tables with all their runs."""
        return to_json(self.tables)

    def to_pandas(self) -> pd.DataFrame:
        """Return the leaderboard as a pandas data frame with one row for each run and the columns of `to_csv`."""
        return data_frame([row_values(table, row) for table in self.tables for row in [*table.ranked, *table.below]])

    def _repr_html_(self) -> str:
        return to_html(self.tables)

    def __repr__(self) -> str:
        tables = ", ".join(f"{table.task}: {len(table.ranked)} ranked, {len(table.below)} not" for table in self.tables)
        return f"<Leaderboard of {tables}>"


def rank_records(records: Sequence[Record], tasks: Sequence[str] = (), metric: str | None = None) -> Leaderboard:
    """Rank the runs in these records by a metric, and return the leaderboard with a table for each task.

    Args:
        records: records of runs.
        tasks: names of the tasks to show; empty for all.
        metric: the metric to rank by, such as `average-precision`; by default the main metric of each task.

    Raises:
        UsageError: for a task or metric that no record has.
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
    tables = build_tables([record for record in records if not tasks or record.task.name in tasks], metric)
    if not tables:
        raise AttrbenchError("no records found: run 'attrbench run' first, or name a folder of records")
    return Leaderboard(tables)


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
