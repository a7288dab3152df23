"""The contract of a preparation, which builds a data set from other data sets and writes it as an image folder."""

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
    """A request to build a data set: output folder, cache folder, replaced image sources and progress callback.

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
    """Base class of data set builders (`attrbench prepare`), which load nothing before `prepare` is called."""

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
        """Build the data set and write it to the order's folder; resume an interrupted call, overwrite no other data.

        Raises:
            AttrbenchError: where a source is out of reach, or the folder holds something else.
        """
