"""The command `attrbench check`, which runs the conformance checks on a method."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from attrbench import api
from attrbench.cli.common import Debug, Device

if TYPE_CHECKING:
    from attrbench.conformance.check_report import Finding, Report

COLORS = {"passed": None, "failed": typer.colors.RED, "skipped": typer.colors.BRIGHT_BLACK}
STATUS_WIDTH, CHECK_WIDTH = len("skipped"), len("permutation")


def check(
    method: Annotated[
        str, typer.Argument(help="NAME or NAME:KEY=VALUE,...; a|b sweeps; 'all' for every method.", show_default=False)
    ],
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Check that a method keeps to the contract, on a tiny task; exit 1 where it does not."""
    tell = not as_json
    reports = api.check(
        method,
        device=device,
        on_method=_title if tell else None,
        on_finding=_show if tell else None,
        on_report=_sum_up if tell else None,
    )
    if as_json:
        typer.echo(json.dumps([report.as_json() for report in reports], indent=1))
    wrong = {"failed"} if method == "all" else {"failed", "unavailable"}  # of all methods some may be unavailable
    if any(report.status in wrong for report in reports):
        raise typer.Exit(1)


def _title(label: str) -> None:
    typer.secho(label, bold=True)


def _show(finding: Finding) -> None:
    """Print the result of one conformance check as a line, and below a failed check the advice for fixing it."""
    line = f"  {finding.status:<{STATUS_WIDTH}}  {finding.check:<{CHECK_WIDTH}}  {finding.found}"
    typer.secho(line, fg=COLORS[finding.status])
    if finding.advice:
        typer.echo(f"  {'':<{STATUS_WIDTH}}  {'':<{CHECK_WIDTH}}  -> {finding.advice}")


def _sum_up(report: Report) -> None:
    if report.unavailable is not None:
        typer.secho(f"  unavailable: {report.unavailable}\n", fg=typer.colors.YELLOW)
        return
    counts = report.counts()
    summary = ", ".join(f"{counts[status]} {status}" for status in COLORS if counts[status])
    typer.echo(f"  {summary} in {report.seconds:.1f} s\n")
