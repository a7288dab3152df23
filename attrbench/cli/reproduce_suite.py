"""`attrbench reproduce SUITE`: a table or figure of a paper, from records that exist or are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from attrbench.cli.common import line_width
from attrbench.errors import UsageError
from attrbench.evaluation.folders import chosen_device
from attrbench.suites.read import read_suite
from attrbench.suites.runs import RunOptions, run_needed
from attrbench.suites.table import SuiteTable, to_csv, to_json, to_markdown
from attrbench.suites.terminal import to_text
from attrbench.text import plain


@dataclass(frozen=True)
class Asked:
    """The user's request for a suite: scale, options of its tasks, form of the answer, and records to take it from."""

    scale: str | None = None
    tasks: Sequence[str] = ()
    format: str = "rich"
    output: Path | None = None
    dry_run: bool = False
    records: Sequence[Path] = ()


def reproduce_suite(name: str, asked: Asked, **settings: Any) -> None:
    """Run what a suite lacks, and print or write its table; exit 3 where values are missing.

    Args:
        name: the suite.
        asked: what of it, and in which form.
        **settings: folders, device and executor, as `RunOptions` takes them.

    Raises:
        typer.Exit: with code 3 where a task or method could not be run.
        UsageError: for a suite, scale, task or file that is wrong.
        AttrbenchError: where nothing of the suite could be run, or a file can't be written.
    """
    suite, options = read_suite(name), RunOptions(records=asked.records, **settings)
    scale = suite.scale(asked.scale, asked.scale is None and chosen_device(options.device) != "cpu")
    from attrbench.suites import reproduce  # torch comes with it, and a wrong suite is told first

    if asked.output is not None:
        if asked.format != "rich":
            raise UsageError("--format is for standard output; the ending of the -o file says its format")
        reproduce.check_file(asked.output, suite)
    needed = reproduce.plan_suite(suite, scale, asked.tasks)
    if asked.dry_run:
        typer.echo("\n".join(map(plain, reproduce.plan_lines(suite, scale, needed))))
        problems = run_needed(needed, options, dry_run=True).problems
        typer.echo("".join(f"not here: {plain(problem)}\n" for problem in problems), nl=False)
        return
    made = reproduce.reproduce(suite, scale, needed, options)
    if asked.output is None:
        typer.echo(_text(made.table, asked.format), nl=False)
    else:
        for path in reproduce.write(made, asked.output):
            typer.echo(plain(path))
    if made.problems:
        raise typer.Exit(3)


def _text(table: SuiteTable, form: str) -> str:
    if form == "rich":
        return to_text(table, line_width())
    return {"md": to_markdown, "csv": to_csv, "json": to_json}[form](table)
