"""`attrbench check`: does a method keep to the contract?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from attrbench.cli.common import Debug, Device, default_device, quiet_libraries

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
    from attrbench.evaluation.requests import request_methods
    from attrbench.plugins.registry import registry

    found = registry()
    requests = request_methods(found, [method])
    quiet_libraries()
    from attrbench.conformance.method_check import check_method  # torch comes with it

    place, reports = default_device(device), []
    for request in requests:
        if not as_json:
            typer.secho(request.label, bold=True)
        report = check_method(found, request, place, _silent if as_json else _show)
        reports.append(report)
        if not as_json:
            _sum_up(report)
    if as_json:
        typer.echo(json.dumps([report.as_json() for report in reports], indent=1))
    wrong = [
        report.status == "failed" or (report.status == "unavailable" and not request.optional)
        for request, report in zip(requests, reports, strict=True)
    ]
    if any(wrong):
        raise typer.Exit(1)


def _silent(finding: Finding) -> None:
    """The JSON comes at the end."""


def _show(finding: Finding) -> None:
    """One line; below a check that failed, what to do."""
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
