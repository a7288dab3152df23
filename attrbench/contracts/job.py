"""The contract of a job: a piece of work as a picklable value, which any process that can import attrbench can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


class Job(Protocol):
    """Protocol of a frozen, picklable piece of work: one item range of a computation, one model's training, ..."""

    @property
    def title(self) -> str:
        """Return a phrase that says what the job does, for messages."""


@dataclass(frozen=True)
class Receipt:
    """The outcome of one job: done, busy (another process is at the same work), or failed with an error.

    Attributes:
        job: the job.
        state: `done`; `busy`, where another process is at the same work; `failed`, where it raised or its process died.
        error: why it failed.
        failures: what of the job could not be done though the rest was: feature -> reason.
    """

    job: Any
    state: Literal["done", "busy", "failed"] = "done"
    error: Exception | None = None
    failures: Mapping[Any, Exception] = field(default_factory=dict)


Execute = Callable[[Any], Receipt]
"""An importable function that does a job in the process that calls it."""
