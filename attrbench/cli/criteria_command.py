"""The command `attrbench criteria`, which says how alike the metrics of a board order its runs."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from attrbench import api
from attrbench.cli.common import Debug, OnlyTasks, Places
from attrbench.contracts.record import no_collection
from attrbench.errors import AttrbenchError
from attrbench.evaluation.folders import record_places
from attrbench.reports.criteria import criteria_document, criteria_lines, criteria_markdown
from attrbench.reports.leaderboard_table import markdown_text
from attrbench.reports.table_cells import shown


def criteria(
    records: Places = None,
    task: OnlyTasks = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", help="Only these, with or without options.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", help="These metrics, by commas; by default those that could rank; 'metrics' is every one."
        ),
    ] = None,
    format_: Annotated[Literal["text", "md", "json"], typer.Option("--format", help="Output format.")] = "text",
    debug: Debug = False,
) -> None:
    """Say how alike the criteria of a board order its runs: what retraining says, and what detection rate says.

    Rank correlations over runs, with intervals over methods, and the runs that a criterion places furthest from where
    the first one has them. Boards with a single criterion are left out.
    """
    with no_collection():
        board = api.leaderboard(record_places(records), tasks=task or (), methods=method or (), rankings=False)
        found = [each for each in board.criteria(metric or ()) if each is not None]
    if not found:
        raise AttrbenchError(
            "no board has two criteria and three runs: name metrics with --metric, or see"
            " 'attrbench leaderboard --columns metrics'"
        )
    if format_ == "json":
        typer.echo(json.dumps([criteria_document(each) for each in found], indent=1))
        return
    for place, each in enumerate(found):
        title = f"{shown(each.table.task)} v{each.table.version}"
        if format_ == "md":
            lines = [f"## {markdown_text(title)}", "", *criteria_markdown(each)]
        else:
            lines = [title, *criteria_lines(each)]
        typer.echo("\n".join([""] * (place > 0) + lines))
