"""Everything that the layouts make a table of: the suite at a scale, its records, and its tasks, opened when asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from attrbench import api
from attrbench.contracts.record import Record
from attrbench.contracts.task import OpenTask
from attrbench.suites.contents import ByScale, RowTable, SuiteFile, TaskTable, at_scale
from attrbench.suites.paper import Value
from attrbench.suites.plan import Needed, filled
from attrbench.suites.read import Suite
from attrbench.suites.runs import RunOptions, Runs


@dataclass(frozen=True)
class SuiteWorld:
    """A suite at a scale, with what was run or found for it.

    Attributes:
        suite: the suite.
        scale: one of its scales.
        needed: its tasks at that scale.
        runs: the records.
        options: folders and device, to open tasks with.
    """

    suite: Suite
    scale: str
    needed: Sequence[Needed]
    runs: Runs
    options: RunOptions

    @property
    def file(self) -> SuiteFile:
        """Return the contents of the suite's file."""
        return self.suite.file

    @cached_property
    def footnotes(self) -> dict[str, str]:
        """Return name -> text of the footnotes at this scale, in their order."""
        texts = {name: at_scale(text, self.scale) for name, text in self.file.footnotes.items()}
        return {name: text for name, text in texts.items() if text}

    def text(self, text: ByScale) -> str:
        """Return a text of the suite at this scale."""
        return at_scale(text, self.scale)

    def marked(self, name: ByScale, notes: Sequence[str]) -> str:
        """Return a name with the marks of the footnotes about it."""
        names = list(self.footnotes)
        marks = "".join(f"[{names.index(note) + 1}]" for note in notes if note in self.footnotes)
        return f"{self.text(name)} {marks}" if marks else self.text(name)

    def label(self, table: TaskTable) -> str:
        """Return the `-t` string of a task at this scale; empty where it has none."""
        return next((each.request.label for each in self.needed if each.table is table), "")

    def record(self, table: TaskTable, row: RowTable) -> Record | None:
        """Return the record of a row on a task; None where there is none."""
        return self.runs.record(table.paper, filled(self.text(row.method), table.values))

    def scores(self, table: TaskTable, row: RowTable) -> NDArray[np.float32] | None:
        """Return the [m, n] scores of a row on a task; None where only a record is there."""
        return self.runs.scores.get((table.paper, filled(self.text(row.method), table.values)))

    def published(self, row: str, column: str) -> Value | None:
        """Return the paper's value; None where it has none."""
        return self.suite.table.value(row, column)

    def opened(self, needed: Needed) -> OpenTask:
        """Return a task of the suite, ready to be looked at; raises as `attrbench.open_task`."""
        return api.open_task(needed.request.label, cache=self.options.cache, device=self.options.device)
