"""The contract of a preparation: a data set that is put together from others and kept as an image folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.contracts.options import Options

OptionsT = TypeVar("OptionsT", bound=Options)


@dataclass(frozen=True)
class Order:
    """A request to prepare a data set, and the folder for it.

    Attributes:
        out: folder of the data set.
        cache: folder of what can be made again.
        sources: those that replace the preparation's own, by name.
        report: called with a line of progress now and then.
    """

    out: Path
    cache: Path
    sources: Mapping[str, DatasetSource]
    report: Callable[[str], None]


class Preparation(ABC, Generic[OptionsT]):
    """A preparation as it is registered: light until `prepare` is called."""

    name: ClassVar[str]
    """What `attrbench prepare` takes."""
    summary: ClassVar[str]
    """One line for `attrbench list`."""
    sources: ClassVar[Mapping[str, DatasetSource]]
    """Where the parts come from, by name."""
    Options: type[OptionsT]

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @abstractmethod
    def prepare(self, order: Order) -> None:
        """Writes the data set; resumes where an earlier call was cut off, and never writes over another one.

        Raises:
            AttrbenchError: where a source is out of reach, or the folder holds something else.
        """
