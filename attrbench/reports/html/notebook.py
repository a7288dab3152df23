"""Leaderboards as HTML for the output of a notebook's cell: the board and its plots, without scripts."""

from __future__ import annotations

from collections.abc import Sequence

from attrbench.reports.html.board import make_board
from attrbench.reports.html.plots import pareto_plots
from attrbench.reports.html.templates import environment, source
from attrbench.reports.ranking import Table


def fragment(tables: Sequence[Table]) -> str:
    """Return leaderboards with their Pareto plots as HTML, with all text escaped and its style scoped."""
    parts = [(make_board(table, f"n{number}"), pareto_plots(table)) for number, table in enumerate(tables, start=1)]
    return environment().get_template("fragment.html").render(parts=parts, css=source("parts.css"))
