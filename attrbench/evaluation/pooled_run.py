"""Run methods on a task of several models: on each model by itself, then one record for each method over all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attrbench.contracts.record import PART_RUNS, Record, read_file, record_path, write_record
from attrbench.contracts.task import OpenTask, Workspace
from attrbench.errors import AttrbenchError, error_line
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.devices import torch_device
from attrbench.evaluation.pooling import pooled_fields
from attrbench.evaluation.progress import Observed, Reporter
from attrbench.evaluation.record_builder import RecordBuilder, run_hardware
from attrbench.evaluation.requests import MethodRequest, TaskRequest, models_of
from attrbench.evaluation.task_run import Result, TaskRun, sealed_record
from attrbench.evaluation.thumbnail_step import write_thumbnails

if TYPE_CHECKING:
    from attrbench.plugins.registry import Registry


def run_on(
    registry: Registry,
    task: TaskRequest,
    methods: Sequence[MethodRequest],
    settings: RunSettings,
    reporter: Reporter,
) -> TaskRun | PooledRun:
    """Return the run of methods on a task; of a task of several models, the one that pools them."""
    if models := models_of(registry, task):
        return PooledRun(registry, task, models, methods, settings, reporter)
    return TaskRun(registry, task, methods, settings, reporter)


class PooledRun:
    """A run of attribution methods on a task of several models, whose records cover the queries of all models.

    Records of the single models are kept in the cache, sealed, so that an interrupted run resumes.

    Args:
        registry: the plugins.
        task: the task request.
        models: the task request of each model.
        methods: the method requests.
        settings: how to run.
        reporter: who is told.
    """

    def __init__(
        self,
        registry: Registry,
        task: TaskRequest,
        models: Sequence[TaskRequest],
        methods: Sequence[MethodRequest],
        settings: RunSettings,
        reporter: Reporter,
    ) -> None:
        self._task, self._methods, self._settings = task, methods, settings
        self._reporter = Observed(reporter, registry)
        self._device = torch_device(settings.device)
        self.records = RecordBuilder(registry, task, settings, run_hardware(registry, settings, self._device), {})
        inside = replace(settings, out=settings.cache / PART_RUNS, seal_records=True)
        self._runs: list[TaskRun] = []
        for model in models:
            self._runs.append(TaskRun(registry, model, methods, inside, reporter))
            methods = self._runs[-1].methods  # what is passed over on one model has no record, so no other is asked

    def results(self) -> Iterator[Result]:
        """Yield one result for each method, over all models; one that was passed over on a model has none."""
        if not self._settings.dry_run:
            self._settings.make_folders()
        found: dict[str, list[Result]] = {}
        for number, run in enumerate(self._runs, 1):
            self._reporter.note(f"model {number} of {len(self._runs)}: {run.task.label}")
            for result in run.results():
                found.setdefault(result.record.method.label, []).append(result)
        if self._settings.dry_run and not found:
            return
        opened = self._task.task.open(Workspace(self._settings.cache, self._device))
        records = []
        for request in self._methods:
            results = found.get(request.label, [])
            if len(results) == len(self._runs):
                pooled = self._pooled(request, results, opened)
                if pooled is not None:
                    yield pooled
                    records.append(pooled.record)
        self._keep_pictures(records, opened)

    def _pooled(self, request: MethodRequest, results: Sequence[Result], opened: OpenTask) -> Result | None:
        """Return a method's result over all models, written where it is not there already; a dry run writes none."""
        parts = [result.record for result in results]
        fields = pooled_fields(parts, self._settings.seed)
        record = self.records.without_results(request, opened, fields["coverage"])
        loads = [part.hardware.load for part in parts if part.hardware.load is not None]
        machine = record.hardware.model_copy(update={"load": max(loads) if loads else None})
        record = record.model_copy(update={**fields, "hardware": machine})
        scores = [result.scores for result in results if result.scores is not None]
        kept = np.concatenate(scores) if len(scores) == len(results) else None
        if all(result.reused for result in results) and (earlier := self._there(record)) is not None:
            return Result(earlier, self._path(record), reused=True, scores=kept)
        if self._settings.dry_run:
            return None
        path = write_record(record, self._settings.out)
        if self._settings.seal_records:
            sealed_record(path).adopt()
        self._reporter.tell("record_written", record=record, path=path)
        return Result(record, path, reused=False, scores=kept)

    def _path(self, record: Record) -> Path:
        return record_path(self._settings.out, record.task.name, record.method.label, record.identity)

    def _there(self, record: Record) -> Record | None:
        """Return the record of an earlier run with this identity, or None where there is none that can be read."""
        try:
            earlier = read_file(self._path(record))
        except (OSError, ValueError):
            return None
        return earlier if earlier is not None and earlier.identity == record.identity else None

    def _keep_pictures(self, records: Sequence[Record], opened: OpenTask) -> None:
        """Add the pictures of what the records rank at the top to the task's thumbnail sheet."""
        ranked = [record for record in records if record.ranking]
        if self._settings.dry_run or self._settings.seal_records or not ranked:
            return
        try:
            write_thumbnails(self._settings.out, opened, ranked, {})
        except (AttrbenchError, OSError) as error:
            self._reporter.note(f"no thumbnails for reports are kept beside the records: {error_line(error)}")
