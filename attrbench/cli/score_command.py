"""The command `attrbench score`, which adds new metrics to records that exist, without running again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from attrbench import api
from attrbench.cli.common import RESULTS, Cache, Debug
from attrbench.contracts.options import Spec
from attrbench.contracts.record import Record
from attrbench.contracts.record_files import KeptRecord, kept_records
from attrbench.contracts.task import OpenTask, Workspace
from attrbench.errors import AttrbenchError, error_line
from attrbench.evaluation.folders import cache_folder
from attrbench.evaluation.requests import request_task
from attrbench.files import write_atomically
from attrbench.plugins import registry as plugins
from attrbench.reports.table_cells import method_text, shown
from attrbench.text import one_line, plain


def score(
    records: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders or files of records [default: attrbench-results].", show_default=False),
    ] = None,
    task: Annotated[list[str] | None, typer.Option("--task", "-t", help="Only these tasks.")] = None,
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Add new metrics to records that exist, from their rankings and the task's groups; nothing runs again.

    What a record has stays as it is. Metrics that need the scores of all items, which no record holds, are named.
    """
    found = [kept for kept in kept_records(records or [RESULTS], api.warn) if not task or kept.record.task.name in task]
    if not found:
        raise AttrbenchError("no records found: run 'attrbench run' first, or name a folder of records")
    from attrbench.evaluation.devices import torch_device  # torch comes with it, and missing records are told first
    from attrbench.evaluation.rescore import rescore

    opened: dict[str, OpenTask | str] = {}
    lacking: Counter[str] = Counter()
    for kept in found:
        record = kept.record
        label = f"{method_text(record)} on {shown(record.task.label)}"
        if record.status == "failed" or not record.ranking:
            typer.echo(f"{label}: has no rankings")
            continue
        if record.task.label not in opened:
            opened[record.task.label] = _open(record, Workspace(cache_folder(cache, None), torch_device("cpu")))
        place = opened[record.task.label]
        if isinstance(place, str):
            typer.echo(f"{label}: left as it is: {place}")
            continue
        scored = rescore(plugins.registry(), record, place, lambda line: typer.echo(plain(line), err=True))
        lacking.update(scored.lacking)
        if scored.record != record:
            _write(kept, scored.record)
        typer.echo(f"{label}: {'added ' + ', '.join(scored.added) if scored.added else 'nothing to add'}")
    for name, count in lacking.items():
        typer.echo(
            f"{name} gave nothing for {count} records: it does not apply, or needs the scores of all items, which"
            " records do not hold; run with --rerun"
        )


def _open(record: Record, workspace: Workspace) -> OpenTask | str:
    """Return a record's task, opened, if it is the one that the record is of; else a line that says why not."""
    from attrbench.evaluation.record_builder import task_fingerprint  # torch comes with it, as above

    try:
        task = request_task(plugins.registry(), Spec(_spec_name(record), record.task.options_given)).task
        opened = task.open(workspace)
        found = task_fingerprint(task, opened)
    except AttrbenchError as error:
        return f"its task can't be opened: {error_line(error)}"
    if found != record.task.fingerprint:
        return "its task has other data or queries here; run with --rerun"
    return opened


def _spec_name(record: Record) -> str:
    """Return what a record's task was asked for by: its name, or the path of its task file."""
    return record.task.label.partition(":")[0] or record.task.name


def _write(kept: KeptRecord, record: Record) -> None:
    try:
        write_atomically(kept.path, (record.model_dump_json(indent=1) + "\n").encode())
    except OSError as error:
        raise AttrbenchError(f"cannot write the record {one_line(kept.path)}: {error.strerror}") from None
