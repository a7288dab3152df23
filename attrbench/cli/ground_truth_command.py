"""The commands `attrbench ground-truth build` and `verify`, which train models on parts of a task's training set."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from attrbench.cli.common import Cache, Debug, Device, Executor, TerminalReporter
from attrbench.contracts.ground_truth import Design
from attrbench.contracts.seeds import LARGEST_SEED
from attrbench.errors import AttrbenchError, UsageError
from attrbench.evaluation.config import make_folder, terminal_reporter
from attrbench.evaluation.folders import cache_folder, chosen_device
from attrbench.evaluation.requests import TaskRequest, request_executor, request_tasks
from attrbench.evaluation.run_status import StatusReporter
from attrbench.ground_truth.bank import TUNING_SUBSETS, BankPlan
from attrbench.ground_truth.subsets import SubsetKind
from attrbench.plugins import registry as plugins
from attrbench.store.checksums import seal_path

ground_truth_app = typer.Typer(
    help="Build what retraining says, once for a task.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


@ground_truth_app.callback()
def _group() -> None:
    """Ground truth from retraining."""


def _one_task(label: str) -> TaskRequest:
    requested = request_tasks(plugins.registry(), [label])
    if len(requested) != 1:
        raise UsageError(f"{label}: one task at a time")
    return requested[0]


TaskName = Annotated[str, typer.Argument(help="The task: NAME or FILE.toml, with :KEY=VALUE,... or without.")]


@ground_truth_app.command("build")
def build(
    task: TaskName,
    subsets: Annotated[int, typer.Option(min=2, help="Number of subsets.")] = 64,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds of each subset.")] = 2,
    limit: Annotated[int | None, typer.Option(min=1, help="Train at most so many models in this call.")] = None,
    alpha: Annotated[float, typer.Option(min=0.01, max=0.99, help="Share of the training items in a subset.")] = 0.5,
    kind: Annotated[
        SubsetKind,
        typer.Option(help="Subsets of a fixed size, or each item by chance; or all items but one group each."),
    ] = "fixed",
    subset_seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=LARGEST_SEED,
            help="Decides the random subsets [default: 0; for tuning queries 1, so that their models are others].",
        ),
    ] = None,
    timesteps: Annotated[int, typer.Option(min=1, help="Timesteps at which losses are measured.")] = 15,
    draws: Annotated[int, typer.Option(min=1, help="Noises for each query and timestep.")] = 100,
    executor: Executor = "inline",
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights", help="Keep the models' weights in the cache, for other measurements.")
    ] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Train those models, too, whose losses ship with the task.")
    ] = False,
    copy_to: Annotated[Path | None, typer.Option(help="Also write the bank to this file, to ship it.")] = None,
    device: Device = None,
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Train models on random subsets of a task's training set and keep their losses on its queries.

    The same command resumes after an interruption; larger --subsets or --seeds keep what is there. Models of the bank
    that ships with the task count as there, without --anew or --keep-weights. Runs on the task with the same cache
    then give the linear datamodeling score.
    """
    request = _one_task(task)
    from attrbench.evaluation.bank_run import build_bank  # torch comes with it, and wrong names are refused before

    folder = cache_folder(cache, None)
    make_folder(folder, "--cache")
    if subset_seed is None:
        subset_seed = TUNING_SUBSETS if request.has_tuning_queries else 0
    plan = BankPlan(
        subsets=subsets,
        seeds=seeds,
        alpha=alpha,
        kind=kind,
        subset_seed=subset_seed,
        steps=timesteps,
        draws=draws,
    )
    status = StatusReporter(terminal_reporter(executor, folder), request.label, ["ground-truth build"], executor)
    with closing(request_executor(plugins.registry(), executor)) as workers, status.kept(folder):
        built = build_bank(
            request.task, plan, folder, chosen_device(device), status, limit, keep_weights, workers, anew
        )
    if limit is None and (built.missing or built.path is None):
        raise AttrbenchError(f"{built.missing or 'some'} models are missing: run the same command again")
    if built.path is None:
        typer.echo(f"{built.missing} models are missing, and no two subsets are whole: run the same command again")
        return
    if copy_to is not None:
        shutil.copyfile(built.path, copy_to)
        shutil.copyfile(seal_path(built.path), seal_path(copy_to))
    typer.echo(
        f"{built.subsets} of {built.planned} subsets with {plan.seeds} seeds each are in {built.path}"
        + (f"; {built.missing} models are missing: run the same command again" if built.missing else "")
    )


@ground_truth_app.command("verify")
def verify(
    task: TaskName,
    models: Annotated[int, typer.Option(min=1, help="Number of models to train again.")] = 3,
    design: Annotated[Design, typer.Option(help="Which bank: models on random subsets, or without a group.")] = (
        "subsets"
    ),
    executor: Executor = "inline",
    device: Device = None,
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Train some models of a task's ground truth again and compare their losses with those that are kept.

    A model counts as reproduced where its losses differ by at most a tenth of their spread between subsets. Exit 1
    where one does not.
    """
    request = _one_task(task)
    from attrbench.evaluation.bank_run import verify_bank  # torch comes with it, as above

    folder = cache_folder(cache, None)
    with closing(request_executor(plugins.registry(), executor)) as workers:
        rebuilt = verify_bank(request.task, design, folder, chosen_device(device), TerminalReporter(), models, workers)
    for model in rebuilt:
        verdict = "reproduced" if model.is_same else "not reproduced"
        typer.echo(
            f"subset {model.number}, seed {model.seed}: {verdict}, losses differ by {model.error:.2g} of their spread"
            " between subsets"
        )
    if not all(model.is_same for model in rebuilt):
        raise typer.Exit(1)
