"""The command `attrbench score`, which adds new metrics to records that exist, without running again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attrbench import api
from attrbench.cli.common import Cache, Debug, OnlyTasks, Places
from attrbench.contracts.record_files import kept_records
from attrbench.contracts.task import Workspace
from attrbench.errors import AttrbenchError
from attrbench.evaluation.folders import cache_folder, record_places
from attrbench.plugins import registry as plugins
from attrbench.text import plain


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
    from attrbench.evaluation.record_scoring import LaterRuns, RecordScoring  # as above
    from attrbench.evaluation.record_tasks import RecordTasks  # as above

    later = None if again is None else LaterRuns(again, kept_records([again], api.warn), new_models)
    tasks = RecordTasks(plugins.registry(), Workspace(cache_folder(cache, None), torch_device("cpu")))
    scoring = RecordScoring(tasks, later, typer.echo, lambda line: typer.echo(plain(line), err=True))
    for kept in found:
        scoring.score(kept)
    for name, count in scoring.lacking.items():
        typer.echo(
            f"{name} gave nothing for {count} records: it does not apply, or needs the scores of all items, which"
            " records do not hold; run with --rerun"
        )
