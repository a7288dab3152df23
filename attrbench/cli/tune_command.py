"""`attrbench tune`: options of methods chosen on queries of their own, then run on the reported ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from attrbench.cli.common import (
    RESULTS,
    Backend,
    BatchSize,
    Cache,
    Debug,
    Device,
    Executor,
    LimitQueries,
    LimitTrain,
    Out,
    Rerun,
    Seed,
    Tasks,
    TerminalReporter,
    console,
    quiet_libraries,
    run_settings,
)
from attrbench.cli.run_command import show_all

if TYPE_CHECKING:
    from attrbench.evaluation.task_run import Result
    from attrbench.evaluation.tune import Choice, TuningRun


def tune(
    method: Annotated[
        list[str], typer.Option("--method", "-m", help="NAME:KEY=a|b|c: a method with the values to choose from.")
    ],
    task: Tasks,
    by: Annotated[
        str | None,
        typer.Option(help="Metric that decides, such as average-precision [default: the task's main metric]."),
    ] = None,
    limit_train: LimitTrain = None,
    limit_queries: LimitQueries = None,
    device: Device = None,
    seed: Seed = 0,
    out: Out = RESULTS,
    cache: Cache = None,
    batch_size: BatchSize = None,
    backend: Backend = "hooks",
    executor: Executor = "inline",
    rerun: Rerun = False,
    debug: Debug = False,
) -> None:
    """Choose options on the task's tuning queries, and run the best on the reported ones. Each -m is a choice."""
    from attrbench.evaluation.requests import request_sweeps, request_tasks
    from attrbench.plugins.registry import registry

    found = registry()
    sweeps, tasks = request_sweeps(found, method), request_tasks(found, task)
    found.executor(executor)
    quiet_libraries()
    from attrbench.evaluation.tune import TuningRun, without_result  # torch comes with it, as in `run`

    settings = run_settings(
        out,
        cache,
        device,
        batch_size,
        backend,
        seed=seed,
        limit_train=limit_train,
        limit_queries=limit_queries,
        executor=executor,
        rerun=rerun,
    )
    runs = [TuningRun(found, request, sweeps, settings, TerminalReporter(), by) for request in tasks]
    choices: list[Choice] = []
    show_all(result for run in runs for result in _results(run, choices))
    for choice in choices:
        if choice.chosen is None:
            raise without_result(choice)


def _results(run: TuningRun, made: list[Choice]) -> Iterator[Result]:
    """Shows what each value reached, then runs the chosen ones; adds the choices to those that were made."""
    choices = run.choices()
    made += choices
    for choice in choices:
        _show(choice)
    yield from run.results(choices)


def _show(choice: Choice) -> None:
    """A table of the values, the chosen one marked."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from attrbench.reports.table_cells import interval_text

    tuned = choice.tuned
    grid = Table(title=escape(f"{tuned.task}: {tuned.queries} tuning queries"), box=box.SIMPLE_HEAD)
    for column in ("method", tuned.by, "95% interval", ""):
        grid.add_column(escape(column), justify="left" if column == "method" else "right", overflow="fold")
    for tried in tuned.tried:
        chosen = choice.chosen is not None and tried.label == choice.chosen.label
        value = ("", tried.why) if tried.value is None else (f"{tried.value:.3f}", interval_text(tried))
        cells = (tried.label, *value, "chosen" if chosen else "")
        grid.add_row(*map(escape, cells), style="bold" if chosen else "")
    console().print(grid)
    if choice.advice:
        typer.echo(f"{choice.advice}\n")
