"""The weights that ship with the tasks, one folder for each."""

from __future__ import annotations

from pathlib import Path

from attrbench.errors import AttrbenchError

WEIGHTS = Path(__file__).parent / "weights"


def need_weights(task: str, file: Path) -> None:
    """Check that a file is there which `attrbench train` writes last into the folder of a task's weights.

    Raises:
        AttrbenchError: where it is not; says how to make the weights.
    """
    if not file.is_file():
        raise AttrbenchError(
            f"task {task}: no weights in {file.parent}; make them with 'attrbench train {task} --out {WEIGHTS / task}'"
        )
