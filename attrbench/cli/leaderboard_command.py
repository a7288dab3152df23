"""`attrbench leaderboard`: what the records say together."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from attrbench.cli.common import RESULTS, Debug, console
from attrbench.errors import AttrbenchError, unknown_name


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
    from attrbench.contracts.record import read_records
    from attrbench.reports.leaderboard_table import to_csv, to_json, to_markdown, to_rich
    from attrbench.reports.ranking import build_tables

    found, problems = [], []
    for folder in records or [RESULTS]:
        if not folder.is_dir():
            raise AttrbenchError(f"no folder {folder}: run 'attrbench run' first, or name a folder of records")
        more, bad = read_records(folder)
        found += more
        problems += bad
    for problem in problems:
        sys.stderr.write(f"attrbench: left out {problem}\n")
    names = {record.task.name for record in found}
    for name in task or ():
        if name not in names:
            raise unknown_name("task among the records", name, names)
    if metric is not None:
        known = {result.name for record in found for result in record.metrics}
        if metric not in known:
            raise unknown_name("metric among the records", metric, known)
    tables = build_tables([record for record in found if not task or record.task.name in task], metric)
    if not tables:
        raise AttrbenchError("no records found: run 'attrbench run' first, or name a folder of records")
    if format_ == "rich":
        out = console()
        for table in tables:
            out.print(to_rich(table))
            out.print()
    else:
        typer.echo({"md": to_markdown, "csv": to_csv, "json": to_json}[format_](tables), nl=False)
