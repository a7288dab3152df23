"""The runs of a board at their methods' defaults, and their values as text, for the pages made of published records."""

from __future__ import annotations

from collections.abc import Collection

from attrbench.plugins.registry import Registry
from attrbench.reports import table_cells
from attrbench.reports.leaderboard_table import markdown_text
from attrbench.reports.ranking import Row, Table


def default_runs(table: Table, registry: Registry, free: Collection[str] = ()) -> dict[str, Row]:
    """Return label -> run of each method at its defaults, the best where there are several.

    Args:
        table: the board.
        registry: the plugins; methods that they lack are left out.
        free: options that may have other values, which are then part of the label.
    """
    found: dict[str, Row] = {}
    for row in table.ranked:
        method = row.record.method
        if row.record.tuned is None and method.name in registry.names("method"):
            default = registry.method(method.name).Options().model_dump(mode="json")
            given = [name for name in method.options_given if default.get(name) != method.options.get(name)]
            if set(given) <= set(free):
                options = ",".join(f"{name}={method.options[name]}" for name in given)
                found.setdefault(":".join(filter(None, (method.name, options))), row)
    return found


def value_text(row: Row | None, metric: str) -> str:
    """Return a run's value of a metric as text; empty where there is no such run or value."""
    return table_cells.value_text(None if row is None else row.record.metric(metric))


def board_link(table: Table, boards_at: str = "../boards") -> str:
    """Return a link to a board's page, in a folder as seen from the page that shows it."""
    return f"[{markdown_text(table.task)}]({boards_at}/{table.task.partition(':')[0]}.md)"
