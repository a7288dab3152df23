"""Folders of trained weights and retrained models' effects that ship with the tasks, and the check for weights."""

from __future__ import annotations

from pathlib import Path

from attrbench.contracts.ground_truth import Design
from attrbench.contracts.options import Options
from attrbench.errors import AttrbenchError

WEIGHTS = Path(__file__).parent / "weights"
GROUND_TRUTH = Path(__file__).parent / "ground-truth"


def shipped_bank(task: str, design: Design, options: Options) -> Path:
    """Return the file with the effects of a task's retrained models on its queries; it need not exist.

    Args:
        task: name of the task.
        design: which models.
        options: of the task; `query_set` and `queries_per_group` decide its queries, and so have files of their own.
    """
    given = options.model_dump(mode="json", include={"query_set", "queries_per_group"}, exclude_defaults=True)
    return GROUND_TRUTH / f"{'-'.join([task, *map(str, given.values()), design])}.safetensors"


def need_weights(task: str, file: Path) -> None:
    """Raise a one-line error where a task's weights are missing, which names the command that trains them.

    Args:
        task: name of the task.
        file: the file that `attrbench train` writes last into the folder of the weights.

    Raises:
        AttrbenchError: where there is no such file.
    """
    if not file.is_file():
        raise AttrbenchError(
            f"task {task}: no weights in {file.parent}; make them with 'attrbench train {task} --out {WEIGHTS / task}'"
        )
