"""`attrbench ground-truth`: trains the subset models that a task's ground truth rests on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from attrbench.cli.common import RESULTS, Cache, Debug, Device, TerminalReporter, default_device, quiet_libraries
from attrbench.errors import UsageError

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
        Literal["fixed", "bernoulli"], typer.Option(help="Subsets of a fixed size, or each item by chance.")
    ] = "fixed",
    timesteps: Annotated[int, typer.Option(min=1, help="Timesteps at which losses are measured.")] = 20,
    draws: Annotated[int, typer.Option(min=1, help="Noises for each query and timestep.")] = 4,
    copy_to: Annotated[Path | None, typer.Option(help="Also write the bank to this file, to ship it.")] = None,
    device: Device = None,
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Train models on random subsets of a task's training set and keep their losses on its queries.

    The same command resumes after an interruption; larger --subsets or --seeds keep what is there. Runs on the task
    with the same cache then give the linear datamodeling score.
    """
    from attrbench.evaluation.requests import make_folder, request_tasks  # imports pydantic models of all tasks
    from attrbench.plugins.registry import registry

    requested = request_tasks(registry(), [task])
    if len(requested) != 1:
        raise UsageError(f"{task}: one task at a time")
    quiet_libraries()
    from attrbench.contracts.ground_truth import TruthSetting
    from attrbench.contracts.task import Workspace
    from attrbench.evaluation.provenance import code_digest, provenance  # torch comes with these: wrong names first
    from attrbench.evaluation.task_run import torch_device
    from attrbench.ground_truth.bank import BankPlan, built_bank
    from attrbench.ground_truth.build import BankBuild, Code

    chosen, folder = requested[0].task, RESULTS / "cache" if cache is None else cache
    make_folder(folder, "--cache")
    plan = BankPlan(subsets=subsets, seeds=seeds, alpha=alpha, kind=kind, steps=timesteps, draws=draws)
    workspace = Workspace(folder, torch_device(default_device(device)))
    reporter = TerminalReporter()
    work = BankBuild(TruthSetting(chosen, chosen.open(workspace), workspace), plan)
    missing = work.train(reporter.stage, limit, reporter.note)
    digest = code_digest(type(chosen).__module__)
    bank = work.bank(Code(digest, provenance(digest).git_revision))
    if bank is None:
        typer.echo(f"{missing} models are missing, and no two subsets are whole: run the same command again")
        return
    path = built_bank(chosen, folder)
    bank.write(path)
    if copy_to is not None:
        shutil.copyfile(path, copy_to)
    typer.echo(
        f"{len(bank.facts.numbers)} of {plan.subsets} subsets with {plan.seeds} seeds each are in {path}"
        + (f"; {missing} models are missing: run the same command again" if missing else "")
    )
