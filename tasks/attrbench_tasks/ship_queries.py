"""Writer of the query pictures that ship beside the minis' weights: `python -m attrbench_tasks.ship_queries TASK ...`.

To be run after a task's weights were replaced, on one thread, with an empty cache. Where the pictures that ship belong
to other weights, every machine draws its own.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Protocol, cast

import torch

from attrbench.api import open_task
from attrbench.evaluation.requests import models_of, request_tasks, with_options
from attrbench.plugins.registry import registry
from attrbench_tasks.minis.query_pictures import KeptPictures


class HasPictures(Protocol):
    """A loaded task whose queries are pictures in a file."""

    @property
    def pictures(self) -> KeptPictures:
        """Return the file of the queries."""


def main(names: list[str]) -> None:
    """Draw the reported and, where a task has them, the tuning queries of tasks, and write them beside the weights."""
    torch.set_num_threads(1)
    known = registry()
    for named in request_tasks(known, names):
        for request in models_of(known, named) or [named]:
            tuning = [with_options(known, request, request.task.tuning)] if request.task.tuning else []
            for each in (request, *tuning):
                _ship(each.label)


def _ship(label: str) -> None:
    with tempfile.TemporaryDirectory() as cache:
        path = cast(HasPictures, open_task(label, cache=cache)).pictures.ship()
    print(f"{label}: {path.name}, {path.stat().st_size:,} bytes", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
