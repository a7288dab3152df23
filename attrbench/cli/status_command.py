"""The command `attrbench status`, which says how far the runs on a cache are, from another terminal or machine."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from attrbench.cli.common import Cache, Debug
from attrbench.evaluation.folders import cache_folder
from attrbench.evaluation.run_status import RunStatus, running, units_at_work, units_line
from attrbench.reports.quantities import human_seconds
from attrbench.reports.table_cells import shown


def status(
    cache: Cache = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Say how far the runs on a cache are, from another terminal.

    Tells the stage, its rate, the time left, and what workers are at, for runs of any machine that shares the folder.
    One whose process has ended without a word is said to have; the same command goes on with it.
    """
    folder = cache_folder(cache, None)
    runs, units = running(folder), units_at_work(folder)
    if as_json:
        document = {
            "runs": [{**run.model_dump(), "has_ended": run.has_ended} for run in runs],
            "units": [{"first": unit.first, "seconds": unit.seconds} for unit in units],
        }
        typer.echo(json.dumps(document, indent=1))
        return
    now = time.time()
    lines = [line for run in runs for line in _run_lines(run, now)]
    typer.echo("\n".join(filter(None, [*lines, units_line(units)])) if lines else "no run is in progress on this cache")


def _run_lines(run: RunStatus, now: float) -> list[str]:
    methods = ", ".join(map(shown, run.methods[:5])) + (f" and {len(run.methods) - 5} more" * (len(run.methods) > 5))
    lines = [
        f"{shown(run.task)}: {methods}",
        f"  process {run.process} on {shown(run.host)}, {shown(run.executor)}, for {human_seconds(now - run.began)}",
    ]
    if run.has_ended:
        return [*lines, "  has ended without a word: the same command goes on with it"]
    stage = run.stage
    if stage is None:
        return [*lines, "  between two stages"]
    text = f"  {shown(stage.name)}: {stage.done} of {stage.total}"
    if stage.done:
        each = (run.told - stage.began) / stage.done
        left = max(0.0, each * (stage.total - stage.done) - (now - run.told))
        text += f", {human_seconds(each)} each, about {human_seconds(left)} left"
    return [*lines, text]
