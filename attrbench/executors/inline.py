"""The executor `inline`, the default, which runs jobs one after the other in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from attrbench.contracts.executor import Executor
from attrbench.contracts.job import Execute, Receipt
from attrbench.contracts.options import Options


class InlineOptions(Options):
    """Options of the executor `inline`, which has none."""


class InlineExecutor(Executor[InlineOptions]):
    """An executor that runs jobs one after the other in this process; exceptions are raised to the caller."""

    name = "inline"
    summary = "one job after the other, in this process"
    Options: ClassVar[type[InlineOptions]] = InlineOptions  # type: ignore[misc]
    in_process = True

    def run(self, jobs: Sequence[Any], execute: Execute) -> Iterator[Receipt]:
        """Run the jobs one after the other in this process, yielding the receipt of each when it is done."""
        for job in jobs:
            yield execute(job)
