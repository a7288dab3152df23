"""The command `attrbench reproduce`: a table or figure of a paper, or a record, again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from attrbench.cli.common import ELSE_RESULTS, Cache, Debug, Device, Executor, ReadCache
from attrbench.cli.reproduce_record import reproduce_record
from attrbench.errors import UsageError
from attrbench.evaluation.folders import record_places
from attrbench.suites.names import is_suite
from attrbench.text import one_line

Format = Literal["rich", "md", "csv", "json"]


def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            help="A suite (table2, figure5, FILE.toml; see 'list suites'); or a record: its file, a method with its"
            " options, or the beginning of an identity."
        ),
    ],
    scale: Annotated[
        str | None,
        typer.Option(help="Of a suite: mini or paper [default: paper where there is a GPU, else mini]."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", "-t", help="Of a suite: options for one of its tasks, such as sd14-lora:lora=FOLDER."),
    ] = None,
    records: Annotated[
        list[Path] | None,
        typer.Option(
            "--records",
            help="Of a suite: take the records in these folders and run nothing. Of a record: folders to look in"
            f" {ELSE_RESULTS}.",
        ),
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="Of a suite: output format.")] = "rich",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Of a suite: file that is written, or replaced: t.md, .csv, .json, .html, .svg."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Of a suite: show the plan and stop.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the new records [default: attrbench-results for a suite; a record's is not kept]."
        ),
    ] = None,
    mark: Annotated[
        Path | None,
        typer.Option(help="Of a record: JSON list of reproduced records, to which this one is added if it is."),
    ] = None,
    retrain: Annotated[
        bool,
        typer.Option(
            "--retrain",
            help="Of a record: also repeat ground truths that train models of their own, such as leave-k-out.",
        ),
    ] = False,
    cache: Cache = None,
    read_cache: ReadCache = None,
    device: Device = None,
    executor: Executor = "inline",
    debug: Debug = False,
) -> None:
    """Reproduce a table or figure of a paper (a suite), or a record.

    Of a suite what has no record yet is run, and the paper's numbers are printed beside ours. The command of a record
    is run again; exit 1 where the result lies outside of its interval.
    """
    if not is_suite(name):
        given = {"--scale": scale, "-t": task, "-o": output, "--dry-run": dry_run}
        given |= {"--format": format_ != "rich", "--device": device, "--executor": executor != "inline"}
        if wrong := [flag for flag, value in given.items() if value]:
            raise UsageError(f"{wrong[0]} is for suites, and '{one_line(name)}' is none; see 'attrbench list suites'")
        reproduce_record(name, record_places(records), out, cache, mark, retrain)
        return
    if mark is not None or retrain:
        flag = "--retrain" if mark is None else "--mark"
        raise UsageError(f"{flag} is for records, and '{name}' is a suite")
    from attrbench.cli.reproduce_suite import Asked, reproduce_suite  # NumPy comes with it

    asked = Asked(scale, task or (), format_, output, dry_run, tuple(records or ()))
    reproduce_suite(name, asked, out=out, cache=cache, read_cache=read_cache, device=device, executor=executor)
