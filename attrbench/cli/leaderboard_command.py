"""The command `attrbench leaderboard`, which prints a ranking of methods from the records of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from attrbench import api
from attrbench.cli.common import RESULTS, Debug, console
from attrbench.reports.leaderboard_table import to_rich


def leaderboard(
    records: Annotated[
        list[Path] | None, typer.Argument(help="Folders of records [default: attrbench-results].", show_default=False)
    ] = None,
    task: Annotated[list[str] | None, typer.Option("--task", "-t", help="Only these tasks.")] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="Rank by this, such as average-precision.")] = None,
    format_: Annotated[Literal["rich", "md", "csv", "json"], typer.Option("--format", help="Output format.")] = "rich",
    debug: Debug = False,
) -> None:
    """Rank the records of each task. Limited, partial and failed runs stand below the line."""
    board = api.leaderboard(records or [RESULTS], tasks=task or (), metric=metric)
    if format_ == "rich":
        terminal = console()
        for table in board.tables:
            terminal.print(to_rich(table))
            terminal.print()
    else:
        typer.echo({"md": board.to_markdown, "csv": board.to_csv, "json": board.to_json}[format_](), nl=False)
