"""The command `attrbench score`, which adds new metrics to records that exist, without running again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from attrbench import api
from attrbench.cli.common import Cache, Debug, OnlyTasks, Places
from attrbench.contracts.record import Record
from attrbench.contracts.record_check import file_content
from attrbench.contracts.record_files import KeptRecord, kept_records
from attrbench.contracts.task import Workspace
from attrbench.errors import AttrbenchError
from attrbench.evaluation.folders import cache_folder, record_places
from attrbench.files import write_atomically
from attrbench.plugins import registry as plugins
from attrbench.reports.table_cells import method_text, shown
from attrbench.text import one_line, plain


def score(
    records: Places = None,
    task: OnlyTasks = None,
    again: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Folder of records of the same methods, run again: metrics that need the scores of all items are"
            " taken from there where the rankings are the same.",
        ),
    ] = None,
    new_models: Annotated[
        bool,
        typer.Option(
            "--new-models",
            help="With --from: where the runs there had other retrained models, as of a bank that was enlarged, what"
            " these say takes the place of what the records have; times stay.",
        ),
    ] = False,
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Add new metrics to records that exist, from their rankings, the task's groups and its retrained models.

    Nothing runs again, and what a record has stays as it is, unless --new-models is given. Metrics that need the scores
    of all items, which no record holds, are named; --from takes them from a later run.
    """
    if new_models and again is None:
        raise AttrbenchError("--new-models needs the runs with them: name their folder with --from")
    found = [
        kept for kept in kept_records(record_places(records), api.warn) if not task or kept.record.task.name in task
    ]
    if not found:
        raise AttrbenchError("no records found: run 'attrbench run' first, or name a folder of records")
    from attrbench.evaluation.devices import torch_device  # torch comes with it, and missing records are told first
    from attrbench.evaluation.record_tasks import RecordTasks
    from attrbench.evaluation.rescore import rescore, with_metrics_of  # as above

    later = [] if again is None else kept_records([again], api.warn)
    registry = plugins.registry()
    tasks = RecordTasks(registry, Workspace(cache_folder(cache, None), torch_device("cpu")))
    lacking: Counter[str] = Counter()
    for kept in found:
        record = kept.record
        label = f"{method_text(record)} on {shown(record.task.label)}"
        if record.status == "failed" or not record.ranking:
            typer.echo(f"{label}: has no rankings")
            continue
        opened = tasks.of(record)
        if isinstance(opened, str):
            typer.echo(f"{label}: left as it is: {shown(opened)}")
            continue
        added: list[str] = []
        if again is not None:
            try:
                later_run = _run_of(record, later, again)
                replaced = {result.metric for result in later_run.metrics} - set(registry.names("metric"))
                record, added = with_metrics_of(record, later_run, replaced if new_models else ())
            except AttrbenchError as error:
                typer.echo(f"{label}: nothing of another run: {plain(error)}")
        truths = tasks.truths_of(record)
        scored = rescore(registry, record, opened, lambda line: typer.echo(plain(line), err=True), truths)
        if scored.other_models:
            typer.echo(f"{label}: nothing of retrained models: {shown(scored.other_models[0])}")
        whole, added = scored.record, [*added, *scored.added]
        known = {result.metric for result in whole.metrics}
        lacking.update(name for name in scored.lacking if name not in known)
        if whole != kept.record:
            _write(kept, whole)
        typer.echo(f"{label}: {'added ' + ', '.join(added) if added else 'nothing to add'}")
    for name, count in lacking.items():
        typer.echo(
            f"{name} gave nothing for {count} records: it does not apply, or needs the scores of all items, which"
            " records do not hold; run with --rerun"
        )


def _run_of(record: Record, later: Sequence[KeptRecord], folder: Path) -> Record:
    """Return the newest run of a record's method with its options, whose label may differ, on its task."""
    asked = (record.task.label, record.method.name, record.method.options)
    runs = [run for kept in later if ((run := kept.record).task.label, run.method.name, run.method.options) == asked]
    if not runs:
        raise AttrbenchError(f"there is none of it, with the same options, in {one_line(folder)}")
    return max(runs, key=lambda run: run.created)


def _write(kept: KeptRecord, record: Record) -> None:
    try:
        write_atomically(kept.path, file_content(record))
    except OSError as error:
        raise AttrbenchError(f"cannot write the record {one_line(kept.path)}: {error.strerror}") from None
