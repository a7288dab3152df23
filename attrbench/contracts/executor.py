"""The contract of an executor, which runs jobs in this process or elsewhere without changing a byte of a result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from attrbench.contracts.job import Execute, Receipt
from attrbench.contracts.options import Options

OptionsT = TypeVar("OptionsT", bound=Options)


class Executor(ABC, Generic[OptionsT]):
    """Base class of executors, which run jobs in this process, in other processes or on other machines.

    Results lie in the store and nowhere else, so that an executor may lose a job, do it twice, or die: the same command
    goes on from what is finished.

    Attributes:
        name: what `--executor` takes, followed by options: `processes:workers=4`.
        summary: one line for `attrbench list`.
        Options: its options.
        short_option: the option that a bare value sets, as in `processes:4`; empty for none.
        in_process: whether jobs run in the process that plans them, and see what it has in memory.
        elsewhere: whether jobs run on other machines, so that the times of a run are those of other hardware.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Options: type[OptionsT]
    short_option: ClassVar[str] = ""
    in_process: ClassVar[bool] = False
    elsewhere: ClassVar[bool] = False

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @property
    def device(self) -> str | None:
        """Return the torch device of the processes that do the jobs; None where it is that of this process."""
        return None

    @abstractmethod
    def run(self, jobs: Sequence[Any], execute: Execute) -> Iterator[Receipt]:
        """Run every job by `execute(job)`, in any order, and yield each receipt (done, busy, failed) as it comes.

        A job that raises, or whose process dies, yields a receipt that says `failed`; it is handed in again later, so
        nothing need be repeated here. An executor in this process may let exceptions through instead.
        """

    def close(self) -> None:
        """Release processes and connections; called once at the end of a run, however it ends."""
