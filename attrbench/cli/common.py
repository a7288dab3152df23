"""Command-line options that several commands share, such as the device, the cache folder and the batch size."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from attrbench.evaluation.folders import RESULTS
from attrbench.evaluation.progress import TerminalReporter, console

__all__ = ["RESULTS", "TerminalReporter", "console", "line_width"]


def line_width() -> int | None:
    """Return the width of standard output in characters: that of the terminal, or COLUMNS; None for a pipe or file."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    return console().width if sys.stdout.isatty() else None


ELSE_RESULTS = "[default: ATTRBENCH_OUT, else attrbench-results]"
"""Where commands look for records, as their help says it."""
Out = Annotated[Path, typer.Option("--out", help="Folder of the records.", envvar="ATTRBENCH_OUT")]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="Folder of features and whatever else is kept [default: the user's cache folder].",
        envvar="ATTRBENCH_CACHE",
    ),
]
ReadCache = Annotated[
    list[Path] | None,
    typer.Option(
        "--read-cache",
        help="Cache of others, which is looked into and never written to; may be given several times.",
        envvar="ATTRBENCH_READ_CACHE",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Tasks = Annotated[list[str], typer.Option("--task", "-t", help="NAME or FILE.toml, with :KEY=VALUE,... or without.")]
OnlyTasks = Annotated[list[str] | None, typer.Option("--task", "-t", help="Only these tasks.")]
RecordName = Annotated[
    str, typer.Argument(help="The file of a record, a method with its options, or the beginning of an identity.")
]
Places = Annotated[
    list[Path] | None,
    typer.Argument(help=f"Folders or files of records {ELSE_RESULTS}.", show_default=False),
]
LookIn = Annotated[list[Path] | None, typer.Option("--records", help=f"Folders to look in {ELSE_RESULTS}.")]
LimitTrain = Annotated[int | None, typer.Option(help="Use only the first N training items.")]
LimitQueries = Annotated[int | None, typer.Option(help="Use only the first N queries.")]
Seed = Annotated[int, typer.Option(help="Seed of intervals, and of methods that draw (random, lissa:batch).")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Pairs of item and timestep a backward pass [default: found].")
]
Backend = Annotated[Literal["hooks", "vmap", "loop"], typer.Option(help="How per-sample gradients are computed.")]
Executor = Annotated[str, typer.Option(help="Where jobs run: inline, processes:N; see 'attrbench list executors'.")]
GroundTruths = Annotated[
    list[str] | None,
    typer.Option("--ground-truth", help="NAME:KEY=VALUE,...: measure this one too, or a default one with options."),
]
Rerun = Annotated[bool, typer.Option("--rerun", help="Score again what a record already answers.")]
Device = Annotated[str | None, typer.Option(help="Torch device [default: cuda where there is one, else cpu].")]
