"""The task under conformance check: opened once, with the few items and the model that all checks look at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.task import Items, OpenTask, Task, Workspace
from attrbench.evaluation.breaches import Look
from attrbench.evaluation.requests import TaskRequest, with_options
from attrbench.plugins.registry import Registry

FEW = 3
"""Training items that the checks put through the model."""


@dataclass(frozen=True)
class TaskSubject:
    """A task under check, opened once.

    Attributes:
        registry: the plugins.
        request: the task with its options.
        workspace: where the task may keep files, and on what it computes.
        retrain: whether a trainable task is trained, which takes as long as it takes.
    """

    registry: Registry
    request: TaskRequest
    workspace: Workspace
    retrain: bool = False

    @cached_property
    def opened(self) -> OpenTask:
        """Return the loaded task, opened once for all checks."""
        return self.request.task.open(self.workspace)

    @property
    def train(self) -> Items:
        """Return the training set."""
        return self.opened.train

    @property
    def queries(self) -> Items:
        """Return the queries."""
        return self.opened.queries

    @property
    def denoiser(self) -> Denoiser:
        """Return the task's model."""
        return self.opened.denoiser

    @cached_property
    def look(self) -> Look:
        """Return what the model makes of a few training items, together and each alone."""
        return Look(self.denoiser, self.train, FEW)

    def fresh(self, **options: str) -> Task[Any]:
        """Return a new instance of the task, which shares no state with the one under check, with other options."""
        return with_options(self.registry, self.request, options).task
