"""The command `attrbench show`, which prints a record."""

from __future__ import annotations

from typing import Annotated

import typer

from attrbench import api
from attrbench.cli.common import Debug, LookIn, RecordName, line_width
from attrbench.contracts.record_files import one_record
from attrbench.evaluation.folders import record_places
from attrbench.plugins import registry as plugins
from attrbench.reports.record_text import ranking_lines, record_lines, unknown_lines


def show(
    record: RecordName,
    records: LookIn = None,
    query: Annotated[int | None, typer.Option("--query", min=0, help="Show the ranking of this query instead.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many training items of it.")] = 10,
    debug: Debug = False,
) -> None:
    """Show a record: what ran, what came out, what it cost, where, and the command that repeats it.

    It can be shown where the plugin of its method is not installed.
    """
    kept = one_record(record, record_places(records), api.warn)
    if query is not None:
        typer.echo("\n".join(ranking_lines(kept.record, query, k)))
        return
    registry = plugins.registry()
    unknown = unknown_lines(kept.record, registry.names("method"), registry.names("task"))
    typer.echo("\n".join(record_lines(kept, unknown, line_width())))
