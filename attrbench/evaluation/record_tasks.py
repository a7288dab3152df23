"""The tasks of records that exist, opened once each, if they are the ones that the records are of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attrbench.contracts.options import Spec
from attrbench.contracts.record import Record
from attrbench.contracts.task import OpenTask, Workspace
from attrbench.errors import AttrbenchError, error_line
from attrbench.evaluation.record_builder import task_fingerprint
from attrbench.evaluation.requests import request_task

if TYPE_CHECKING:
    from attrbench.plugins.registry import Registry


@dataclass
class RecordTasks:
    """The tasks of records, each opened once.

    Attributes:
        registry: the plugins.
        workspace: the cache and device with which tasks are opened.
    """

    registry: Registry
    workspace: Workspace
    _known: dict[str, tuple[OpenTask, str] | str] = field(default_factory=dict)

    def of(self, record: Record) -> OpenTask | str:
        """Return a record's task, opened; or a line that says why there is none here with its data and queries."""
        label = record.task.label
        if label not in self._known:
            self._known[label] = self._open(record)
        known = self._known[label]
        if isinstance(known, str):
            return known
        opened, expected = known
        if record.task.fingerprint != expected:
            return (
                f"the fingerprint of its task is {record.task.fingerprint[:10]}, and that of {label} as it is here is"
                f" {expected[:10]}: other data, queries, options or version"
            )
        return opened

    def _open(self, record: Record) -> tuple[OpenTask, str] | str:
        spec = Spec(record.task.name, record.task.options_given)
        if record.task.name not in self.registry.names("task"):  # of a task file, which the label names
            spec = Spec(record.task.label.partition(":")[0], record.task.options_given)
        try:
            task = request_task(self.registry, spec).task
            opened = task.open(self.workspace)
            return opened, task_fingerprint(task, opened)
        except AttrbenchError as error:
            return f"its task can't be opened here, so that its fingerprint is not checked: {error_line(error)}"
