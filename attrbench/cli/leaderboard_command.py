"""The command `attrbench leaderboard`, which prints a ranking of methods from the records of runs."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from attrbench import api
from attrbench.cli.common import Debug, OnlyTasks, Places, console, line_width
from attrbench.contracts.record import no_collection
from attrbench.evaluation.folders import record_places


def leaderboard(
    records: Places = None,
    task: OnlyTasks = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", help="Only these, with or without options; ranks stay.")
    ] = None,
    hardware: Annotated[
        list[str] | None, typer.Option("--hardware", help="Only classes of hardware with this in their name.")
    ] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="Rank by this, such as average-precision.")] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--columns", help="Columns and metrics, by commas; 'metrics' is every metric, 'all' everything."),
    ] = None,
    sort: Annotated[str, typer.Option("--sort", help="Order of the ranked runs: a column or a metric.")] = "rank",
    format_: Annotated[Literal["rich", "md", "csv", "json"], typer.Option("--format", help="Output format.")] = "rich",
    debug: Debug = False,
) -> None:
    """Rank the records of each task. Limited, partial and failed runs stand below the line.

    A terminal gets the columns that it has room for, a pipe all of them (COLUMNS sets another width).
    """
    with no_collection():
        board = api.leaderboard(
            record_places(records),
            tasks=task or (),
            metric=metric,
            methods=method or (),
            hardware=hardware or (),
            rankings=False,
        )
        names = columns or ()
        if format_ == "rich":
            console().print(board.to_rich(line_width(), names, sort), end="")
            return
        to_text = {"md": board.to_markdown, "csv": board.to_csv, "json": board.to_json}[format_]
        typer.echo(to_text(names, sort), nl=False)
