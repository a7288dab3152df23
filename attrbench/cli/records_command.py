"""The commands `attrbench records ls`, `verify` and `rm`, which list, check and remove records."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from attrbench import api
from attrbench.cli.common import Cache, Debug, LookIn, OnlyTasks, Places
from attrbench.contracts.record import MetricResult, Record
from attrbench.contracts.record_files import KeptRecord, kept_records, one_record, readable_records
from attrbench.contracts.task import Workspace
from attrbench.errors import AttrbenchError
from attrbench.evaluation.folders import cache_folder, record_places
from attrbench.plugins import registry as plugins
from attrbench.reports.record_text import unknown_lines
from attrbench.reports.table_cells import method_text, metric_text, ranking_results, shown
from attrbench.reports.text_table import text_table
from attrbench.text import one_line

records_app = typer.Typer(
    help="List, check and remove records.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


@records_app.callback()
def _group() -> None:
    """Records of runs."""


@records_app.command("ls")
def list_records(
    records: Places = None,
    task: OnlyTasks = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    debug: Debug = False,
) -> None:
    """List records with their result, also those of methods that no installed plugin has."""
    found = [
        kept for kept in kept_records(record_places(records), api.warn) if not task or kept.record.task.name in task
    ]
    if as_json:
        typer.echo(json.dumps([_entry(kept) for kept in found], indent=1))
        return
    titles = ("record", "task", "method", "status", "result", "made")
    typer.echo(
        "\n".join([*text_table(titles, [_cells(kept) for kept in found], left=range(6)), f"{len(found)} records"])
    )
    registry = plugins.registry()
    names = registry.names("method"), registry.names("task")
    for line in sorted({line for kept in found for line in unknown_lines(kept.record, *names)}):
        typer.echo(line)


@records_app.command("verify")
def verify(records: Places = None, cache: Cache = None, debug: Debug = False) -> None:
    """Check that records can join a board: whole, of the task as it ships, and of a package that is named.

    Opens the records' tasks, which draw their queries first where these do not ship with them. Exit 1 where a record
    is refused, as is a file that can't be read.
    """
    unreadable: list[str] = []
    found = readable_records(record_places(records), unreadable.append)
    if not found and not unreadable:
        raise AttrbenchError("no records found: name a record or a folder of records")
    from attrbench.evaluation.devices import torch_device  # torch comes with it, and missing records are told first
    from attrbench.evaluation.record_tasks import RecordTasks
    from attrbench.evaluation.verification import record_faults  # as above

    tasks = RecordTasks(plugins.registry(), Workspace(cache_folder(cache, None), torch_device("cpu")))
    refused, total = len(unreadable), len(found) + len(unreadable)
    for line in unreadable:
        typer.echo(f"refused: {shown(line)}")
    for kept in found:
        faults = record_faults(kept, tasks)
        refused += bool(faults)
        for fault in faults:
            typer.echo(f"{one_line(kept.path)}: refused: {shown(fault)}")
    typer.echo(f"{total - refused} of {total} records can join a board")
    if refused:
        raise typer.Exit(1)


@records_app.command("rm")
def remove(
    record: Annotated[
        list[str], typer.Argument(help="Files of records, methods with options, or beginnings of identities.")
    ],
    records: LookIn = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    debug: Debug = False,
) -> None:
    """Remove records. What their runs computed stays in the cache; the same command makes them again."""
    chosen = {kept.path: kept for kept in (one_record(name, record_places(records), api.warn) for name in record)}
    for path, kept in chosen.items():
        if not dry_run:
            try:
                path.unlink()
            except OSError as error:
                raise AttrbenchError(f"cannot remove {one_line(path)}: {error.strerror}") from None
        verb = "would remove" if dry_run else "removed"
        typer.echo(f"{verb} {one_line(path)}: {method_text(kept.record)} on {shown(kept.record.task.label)}")


def _main(record: Record) -> MetricResult | None:
    """Return the first finite result by which a board can rank a run; None where there is none."""
    return next((result for result in ranking_results(record) if result.finite), None)


def _cells(kept: KeptRecord) -> list[str]:
    record = kept.record
    main = _main(record)
    result = "" if main is None else f"{shown(main.name)} {metric_text(main)}"
    parts = record.identity[:10], record.task.name, method_text(record), record.status, result, record.created[:10]
    return [shown(part) for part in parts]


def _entry(kept: KeptRecord) -> dict[str, object]:
    record = kept.record
    main = _main(record)
    return {
        "path": str(kept.path),
        "identity": record.identity,
        "task": record.task.label,
        "method": record.method.label,
        "distribution": record.method.distribution,
        "status": record.status,
        "metric": None if main is None else main.name,
        "value": None if main is None else main.value,
        "created": record.created,
        "command": record.command,
    }
