"""Naming of the owner of an unexpected error: whose task raised it, so that a user knows whom to ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from attrbench.errors import AttrbenchError, error_line


@contextmanager
def errors_of_task(label: str, owner: object, what: str) -> Iterator[None]:
    """Let an error that a task's own code raises say which task and class it is of.

    What says so itself, and what is a matter of the machine (files, memory), stays as it is.

    Args:
        label: of the task.
        owner: the object whose code runs.
        what: what was asked of it, such as "can't be opened".

    Raises:
        AttrbenchError: in the place of any other exception.
    """
    try:
        yield
    except (AttrbenchError, OSError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        where = f"{type(owner).__module__}.{type(owner).__qualname__}"
        raise AttrbenchError(f"task {label} ({where}) {what}: {error_line(error)}") from error
