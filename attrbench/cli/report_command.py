"""The command `attrbench report`, which makes a file that people look at of the records of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attrbench.cli.common import ELSE_RESULTS, Debug, OnlyTasks
from attrbench.evaluation.folders import record_places
from attrbench.reporting import report as make_report
from attrbench.reports.quantities import human_bytes
from attrbench.text import plain


def report(
    out: Annotated[Path, typer.Option("--output", "-o", help="File to write, such as report.html; it is replaced.")],
    records: Annotated[
        list[Path] | None, typer.Argument(help=f"Folders of records {ELSE_RESULTS}.", show_default=False)
    ] = None,
    task: OnlyTasks = None,
    metric: Annotated[str | None, typer.Option("--metric", help="Rank by this, such as average-precision.")] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", help="NAME or NAME:KEY=VALUE,... [default: by the file's ending]; see 'list reports'."
        ),
    ] = None,
    highlight: Annotated[
        list[str] | None, typer.Option("--highlight", help="A method whose runs stand out, with or without options.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Make a report of records: one page with board, plots, pictures and provenance. It needs no network."""
    made = make_report(
        record_places(records), out, tasks=task or (), metric=metric, format=format_, highlight=highlight or ()
    )
    typer.echo(plain(f"{made}: {human_bytes(made.stat().st_size)}"))
