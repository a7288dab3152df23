"""The command `attrbench ground-truth`, which trains models on random subsets of a task's training set."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from attrbench.cli.common import Cache, Debug, Device, TerminalReporter
from attrbench.errors import AttrbenchError, UsageError
from attrbench.evaluation.config import make_folder
from attrbench.evaluation.folders import cache_folder, chosen_device
from attrbench.evaluation.requests import request_tasks
from attrbench.ground_truth.bank import BankPlan
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


@ground_truth_app.command("build")
def build(
    task: Annotated[str, typer.Argument(help="The task: NAME or FILE.toml, with :KEY=VALUE,... or without.")],
    subsets: Annotated[int, typer.Option(min=2, help="Number of subsets.")] = 64,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds of each subset.")] = 2,
    limit: Annotated[int | None, typer.Option(min=1, help="Train at most so many models in this call.")] = None,
    alpha: Annotated[float, typer.Option(min=0.01, max=0.99, help="Share of the training items in a subset.")] = 0.5,
    kind: Annotated[
        SubsetKind,
        typer.Option(help="Subsets of a fixed size, or each item by chance; or all items but one group each."),
    ] = "fixed",
    timesteps: Annotated[int, typer.Option(min=1, help="Timesteps at which losses are measured.")] = 15,
    draws: Annotated[int, typer.Option(min=1, help="Noises for each query and timestep.")] = 100,
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights", help="Keep the models' weights in the cache, for other measurements.")
    ] = False,
    copy_to: Annotated[Path | None, typer.Option(help="Also write the bank to this file, to ship it.")] = None,
    device: Device = None,
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Train models on random subsets of a task's training set and keep their losses on its queries.

    The same command resumes after an interruption; larger --subsets or --seeds keep what is there. Runs on the task
    with the same cache then give the linear datamodeling score.
    """
    requested = request_tasks(plugins.registry(), [task])
    if len(requested) != 1:
        raise UsageError(f"{task}: one task at a time")
    from attrbench.evaluation.bank_run import build_bank  # torch comes with it, and wrong names are refused before

    folder = cache_folder(cache, None)
    make_folder(folder, "--cache")
    plan = BankPlan(subsets=subsets, seeds=seeds, alpha=alpha, kind=kind, steps=timesteps, draws=draws)
    built = build_bank(requested[0].task, plan, folder, chosen_device(device), TerminalReporter(), limit, keep_weights)
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
