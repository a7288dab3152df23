"""The executor `inline`: runs jobs one after the other in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from attrbench.contracts.executor import Executor
from attrbench.contracts.job import Execute, Receipt
from attrbench.contracts.options import Options


class InlineOptions(Options):
    """Options of `inline`: none."""


class InlineExecutor(Executor[InlineOptions]):
    """An executor that runs jobs one after the other in this process; exceptions are raised to the caller."""

    name = "inline"
    summary = "one job after the other, in this process"
    Options: ClassVar[type[InlineOptions]] = InlineOptions  # type: ignore[misc]
    in_process = True

    def run(self, jobs: Sequence[Any], execute: Execute) -> Iterator[Receipt]:
        """See `Executor`."""
        for job in jobs:
            yield execute(job)
