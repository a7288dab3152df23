"""The command `attrbench check`, which runs the conformance checks on methods and tasks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from attrbench import api
from attrbench.cli.common import Cache, Debug, Device
from attrbench.errors import UsageError
from attrbench.evaluation.requests import is_every
from attrbench.text import plain

if TYPE_CHECKING:
    from attrbench.conformance.check_report import Finding, Report

COLORS = {"passed": None, "failed": typer.colors.RED, "skipped": typer.colors.BRIGHT_BLACK}
STATUS_WIDTH, CHECK_WIDTH = len("skipped"), len("fingerprints")


def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Methods and tasks: NAME or FILE.toml, with :KEY=VALUE,... or without; a|b sweeps; 'all' for every"
            " method.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", help="A method, where a task has its name.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option("--task", "-t", help="A task, where a method has its name.")] = None,
    train: Annotated[bool, typer.Option("--train", help="Also train each task again, four times.")] = False,
    device: Device = None,
    cache: Cache = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Check that methods and tasks keep to the contract; exit 1 where one does not.

    A method is tried on a tiny task (docs/how-to/check.md), a task with a few of its items (docs/how-to/check-task.md).
    """
    named = [*(names or ()), *(method or ()), *(task or ())]
    if not named:
        raise UsageError("name a method or a task to check: 'attrbench list' shows them")
    tell = not as_json
    reports = api.check(
        names or (),
        methods=method or (),
        tasks=task or (),
        device=device,
        cache=cache,
        retrain=train,
        on_start=_title if tell else None,
        on_finding=_show if tell else None,
        on_report=_sum_up if tell else None,
    )
    if as_json:
        typer.echo(json.dumps([report.as_json() for report in reports], indent=1))
    some_may_be_unavailable = any(map(is_every, named))
    wrong = {"failed"} if some_may_be_unavailable else {"failed", "unavailable"}
    if any(report.status in wrong for report in reports):
        raise typer.Exit(1)


def _title(label: str) -> None:
    typer.secho(plain(label), bold=True)


def _show(finding: Finding) -> None:
    """Print the result of one conformance check as a line, and below a failed check the advice for fixing it."""
    line = f"  {finding.status:<{STATUS_WIDTH}}  {finding.check:<{CHECK_WIDTH}}  {plain(finding.found)}"
    typer.secho(line, fg=COLORS[finding.status])
    if finding.advice:
        typer.echo(f"  {'':<{STATUS_WIDTH}}  {'':<{CHECK_WIDTH}}  -> {plain(finding.advice)}")


def _sum_up(report: Report) -> None:
    """Print how many checks passed, and which options were the method's quick ones instead of its defaults."""
    if report.unavailable is not None:
        typer.secho(f"  unavailable: {plain(report.unavailable)}\n", fg=typer.colors.YELLOW)
        return
    counts = report.counts()
    summary = ", ".join(f"{counts[status]} {status}" for status in COLORS if counts[status])
    typer.echo(f"  {summary} in {report.seconds:.1f} s")
    if report.quick:
        quick = ",".join(f"{name}={value}" for name, value in report.quick.items())
        typer.echo(f"  with {quick}, which the method names for checks (Method.quick), not with its defaults")
    typer.echo("")
