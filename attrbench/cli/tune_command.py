"""The command `attrbench tune`, which chooses options on tuning queries and runs them on the reported queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from attrbench import api
from attrbench.cli.common import (
    RESULTS,
    Backend,
    BatchSize,
    Cache,
    Debug,
    Device,
    Executor,
    GroundTruths,
    LimitQueries,
    LimitTrain,
    Out,
    ReadCache,
    Rerun,
    Seed,
    Tasks,
    console,
)
from attrbench.cli.run_command import ExitCode
from attrbench.errors import AttrbenchError
from attrbench.reports.table_cells import interval_text, shown
from attrbench.text import plain

if TYPE_CHECKING:
    from attrbench.evaluation.tune import Choice


def tune(
    method: Annotated[
        list[str], typer.Option("--method", "-m", help="NAME:KEY=a|b|c: a method with the values to choose from.")
    ],
    task: Tasks,
    by: Annotated[
        str | None,
        typer.Option(
            help="Metric that decides, such as average-precision [default: lds where models were retrained for the"
            " tuning queries, else the task's main metric]."
        ),
    ] = None,
    limit_train: LimitTrain = None,
    limit_queries: LimitQueries = None,
    device: Device = None,
    seed: Seed = 0,
    out: Out = RESULTS,
    cache: Cache = None,
    read_cache: ReadCache = None,
    batch_size: BatchSize = None,
    backend: Backend = "hooks",
    executor: Executor = "inline",
    ground_truth: GroundTruths = None,
    rerun: Rerun = False,
    debug: Debug = False,
) -> None:
    """Choose options on the task's tuning queries, and run the best on the reported ones. Each -m is a choice."""
    exit_code = ExitCode()
    results = api.tune(
        method,
        task,
        by=by,
        out=out,
        cache=cache,
        read_cache=read_cache,
        device=device,
        seed=seed,
        limit_train=limit_train,
        limit_queries=limit_queries,
        executor=executor,
        ground_truths=tuple(ground_truth or ()),
        rerun=rerun,
        batch_size=batch_size,
        backend=backend,
        keep_scores=False,
        on_choice=_show,
        on_result=exit_code.show,
    )
    exit_code.leave()
    for choice in results.choices:
        if choice.chosen is None:
            raise choice.without_result()
    if failed := [label for choice in results.choices for label in choice.failed]:
        count = f"{len(failed)} {'value' if len(failed) == 1 else 'values'}"
        raise AttrbenchError(f"{count} failed on the tuning queries and could not be chosen: {', '.join(failed)}")


def _show(choice: Choice) -> None:
    """Print a table of the option values that were tried, each with its metric, and mark the chosen one."""
    tuned = choice.tuned
    grid = Table(title=Text(f"{shown(tuned.task)}: {tuned.queries} tuning queries"), box=box.SIMPLE_HEAD)
    for column in ("method", tuned.by, "95% interval", ""):
        grid.add_column(Text(shown(column)), justify="left" if column == "method" else "right", overflow="fold")
    for tried in tuned.tried:
        chosen = choice.chosen is not None and tried.label == choice.chosen.label
        value = ("", tried.why) if tried.value is None else (f"{tried.value:.3f}", interval_text(tried))
        cells = (tried.label, *value, "chosen" if chosen else "")
        grid.add_row(*(Text(shown(cell)) for cell in cells), style="bold" if chosen else "")
    console().print(grid)
    if choice.advice:
        typer.echo(f"{plain(choice.advice)}\n")
