"""The contract of a task of several models, whose values a run pools: one record for each method over all models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from attrbench.errors import UsageError


class SeveralModels(ABC):
    """Mixin of tasks that may stand for several models, each with captions and queries of its own.

    A run asks the task of each model by itself, and pools the values of all queries (`evaluation.pooled_run`). The
    training sets have equal pictures and groups in equal order, so that an id means the same for all. Opened without a
    model, the task is an `attrbench.data.open_several_models.OpenSeveralModels`.
    """

    @property
    @abstractmethod
    def parts(self) -> Sequence[Mapping[str, str]]:
        """Return the options that name the task of each model, by name; empty for a task of a single model."""


def several_models(name: str, models: Sequence[str]) -> UsageError:
    """Return the error that a task of several models is asked for what one model alone can do.

    Args:
        name: of the task.
        models: the options that name each.
    """
    return UsageError(f"task {name} is {len(models)} models: name one of them, such as {name}:{models[0]}")
