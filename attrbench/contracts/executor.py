"""Executors carry shards to where they are computed; they never change a byte of a result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from attrbench.store.shards import Unit


class Executor(ABC):
    """A way to work through the shards of a pass."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def run(self, units: Sequence[Unit], work: Callable[[Unit], None]) -> Iterator[Unit]:
        """Calls `work` on every unit, in any order, and yields each when it is done."""


class InlineExecutor(Executor):
    """One shard after the other, in this process."""

    name = "inline"
    summary = "one shard after the other, in this process"

    def run(self, units: Sequence[Unit], work: Callable[[Unit], None]) -> Iterator[Unit]:
        """See `Executor`."""
        for unit in units:
            work(unit)
            yield unit
