"""The contract of a report: a file that people look at, made of the records of runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

from attrbench.contracts.options import Options
from attrbench.contracts.record import Record
from attrbench.contracts.thumbnails import Thumbnails

OptionsT = TypeVar("OptionsT", bound=Options)


@dataclass(frozen=True)
class Material:
    """Everything that a report is made of: records, the metric that ranks them, and pictures of their items.

    Attributes:
        records: the newest record of each method, options and seed on each task, of any number of tasks.
        metric: name of the metric that ranks; None for each task's main metric.
        thumbnails: pictures by `TaskInfo.fingerprint`; empty where no run left any beside its records.
        highlight: methods whose runs shall stand out, with or without options.
    """

    records: Sequence[Record]
    metric: str | None = None
    thumbnails: Mapping[str, Thumbnails] = field(default_factory=dict)
    highlight: Sequence[str] = ()


class Report(ABC, Generic[OptionsT]):
    """Base class of reports, which `attrbench report` makes of records without opening a task.

    Names, labels, captions and errors in records come from others: a report escapes them.

    Attributes:
        name: what `attrbench report --format` takes, followed by options: `html:k=5`.
        summary: one line for `attrbench list`.
        suffix: ending of the file, such as `.html`; a file's ending chooses the report where no format is given.
        Options: its options.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    suffix: ClassVar[str]
    Options: type[OptionsT]

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @abstractmethod
    def make(self, material: Material) -> bytes:
        """Return the report as the bytes of a file; the same material gives the same bytes.

        Raises:
            UsageError: for a metric that no record has.
        """
