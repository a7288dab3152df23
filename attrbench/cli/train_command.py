"""The command `attrbench train`, which trains a task's model again by the task's training recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attrbench.cli.common import RESULTS, Debug, Device
from attrbench.contracts.task import Trainable
from attrbench.errors import Damaged, UsageError
from attrbench.evaluation.folders import chosen_device
from attrbench.evaluation.requests import request_tasks
from attrbench.plugins import registry as plugins
from attrbench.store.artifacts import Artifact


def train(
    task: Annotated[str, typer.Argument(help="The task.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the weights [default: attrbench-results/trained/TASK].")
    ] = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Repeat the training of a task's weights. The same command resumes after an interruption."""
    chosen = request_tasks(plugins.registry(), [task])[0].task
    if not isinstance(chosen, Trainable):
        raise UsageError(f"task {chosen.meta.name} has no training recipe")
    from attrbench.evaluation.devices import torch_device  # torch comes with it, and wrong names are refused before

    folder = RESULTS / "trained" / chosen.meta.name if out is None else out
    sealed = Artifact(folder, "trained weights", f"weights of {chosen.meta.name}", "--out")
    if sealed.is_there() and sealed.whole() is None:
        raise Damaged(
            f"{folder} is not as its training left it (its checksum differs): remove it to train again, or name another"
            " folder with --out"
        )
    trained = chosen.train(None, None, folder, torch_device(chosen_device(device)), typer.echo)
    if not sealed.is_there():
        sealed.adopt()
    typer.echo(f"weights are in {trained}")
