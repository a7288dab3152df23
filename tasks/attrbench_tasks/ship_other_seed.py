"""Trainer of the weights for the control `other-seed`: `python -m attrbench_tasks.ship_other_seed TASK ...`.

Each task is trained once more on its whole training set with the recipe and seed 1: a DDPM anew, a LoRA on the base
that ships. The LoRA, or the DDPM in half precision as other checkpoints are, is written to
`checkpoints/other-seed.safetensors` beside the weights of the task's model. To be run after these were replaced.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Protocol, cast

import torch

from attrbench.contracts.denoiser import CHECKPOINTS, OTHER_SEED
from attrbench.contracts.task import Trainable
from attrbench.errors import UsageError
from attrbench.evaluation.requests import TaskRequest, models_of, request_tasks
from attrbench.files import write_atomically
from attrbench.plugins.registry import registry
from attrbench_tasks.minis.open_ddpm import MiniDDPMTask
from attrbench_tasks.training.train_ddpm import UNET_FILE, half_precision
from attrbench_tasks.training.train_text_to_image import LORA_FILE

SEED = 1
"""The recipes' own is 0."""


class HasWeights(Protocol):
    """A task whose weights ship with the package."""

    @property
    def weights(self) -> Path:
        """Return the folder of the weights."""


def main(names: list[str]) -> None:
    """Train each named task, or each of its models, with another seed, and ship the weights beside its own."""
    torch.set_num_threads(1)
    known = registry()
    for request in request_tasks(known, names):
        for each in models_of(known, request) or [request]:
            file = ship(each)
            print(f"{each.label}: {file.stat().st_size:,} bytes", flush=True)  # noqa: T201


def ship(request: TaskRequest) -> Path:
    """Return the file of the weights that a task's training gives with another seed, trained where it is not there."""
    task = request.task
    own = Path(task.own_model.model) if isinstance(task, MiniDDPMTask) else cast(HasWeights, task).weights
    file = own / CHECKPOINTS / f"{OTHER_SEED}.safetensors"
    if not isinstance(task, Trainable) or not any((own / part).is_file() for part in (LORA_FILE, UNET_FILE)):
        raise UsageError(f"task {request.label} has no LoRA and no DDPM that can be trained again")
    if not file.is_file():
        with tempfile.TemporaryDirectory() as folder:
            trained = task.train(None, SEED, Path(folder) / "model", torch.device("cpu"), _silent)
            write_atomically(file, checkpoint_bytes(trained))
    return file


def checkpoint_bytes(trained: Path) -> bytes:
    """Return the checkpoint file of a folder that a task trained: its LoRA, or its DDPM in half precision."""
    lora = trained / LORA_FILE
    return lora.read_bytes() if lora.is_file() else half_precision(trained / UNET_FILE)


def _silent(line: str) -> None:
    """Do nothing with a line of progress."""


if __name__ == "__main__":
    main(sys.argv[1:])
