"""The command `attrbench list`, which prints the registered methods, tasks and metrics without importing torch."""

from __future__ import annotations

from typing import Annotated

import typer

from attrbench.cli.common import Debug
from attrbench.cli.listing import What, write_listing


def list_(
    what: Annotated[What | None, typer.Argument(help="Only these.", show_default=False)] = None,
    name: Annotated[str | None, typer.Argument(help="Only this one, with its options.", show_default=False)] = None,
    options: Annotated[bool, typer.Option("--options", help="Also show the options of methods and tasks.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    debug: Debug = False,
) -> None:
    """List methods, tasks, metrics, executors and whatever else plugins bring."""
    write_listing(what, options, as_json, name)
