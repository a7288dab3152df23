"""Checks of a record before it joins a board: is it whole, does it say where it is from, does it fit its task."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from attrbench.contracts.options import Spec
from attrbench.contracts.record import MetricResult, Record, record_path
from attrbench.contracts.record_files import KeptRecord
from attrbench.contracts.task import OpenTask, Workspace
from attrbench.errors import AttrbenchError, error_line
from attrbench.evaluation.record_builder import task_fingerprint
from attrbench.evaluation.requests import request_task
from attrbench.evaluation.rescore import rescore

if TYPE_CHECKING:
    from attrbench.plugins.registry import Registry


@dataclass
class Verifier:
    """A verifier of records, which opens each task once.

    Attributes:
        registry: the plugins.
        workspace: the cache and device with which tasks are opened.
    """

    registry: Registry
    workspace: Workspace
    _tasks: dict[str, tuple[OpenTask, str] | str] = field(default_factory=dict)

    def faults(self, kept: KeptRecord) -> list[str]:
        """Return a line for each reason why a record can't join a board; empty where there is none."""
        record = kept.record
        found = [*_faults_of_extent(record), *_faults_of_origin(kept), *_faults_of_numbers(record)]
        known = self._open(record)
        if isinstance(known, str):
            return [*found, known]
        opened, expected = known
        if record.task.fingerprint != expected:
            return [
                *found,
                f"the fingerprint of its task is {record.task.fingerprint[:10]}, and that of {record.task.label} as it"
                f" ships is {expected[:10]}: other data, queries, options or version",
            ]
        return [*found, *_faults_of_ranking(record, len(opened.train)), *self._contradictions(record, opened)]

    def _open(self, record: Record) -> tuple[OpenTask, str] | str:
        """Return a record's task, opened, and its fingerprint; a line that says why, where there is none here."""
        spec = Spec(record.task.name, record.task.options_given)
        if str(spec) not in self._tasks:
            self._tasks[str(spec)] = self._opened(spec)
        return self._tasks[str(spec)]

    def _opened(self, spec: Spec) -> tuple[OpenTask, str] | str:
        try:
            task = request_task(self.registry, spec).task
            opened = task.open(self.workspace)
            return opened, task_fingerprint(task, opened)
        except AttrbenchError as error:
            return f"its task can't be opened here, so that its fingerprint is not checked: {error_line(error)}"

    def _contradictions(self, record: Record, opened: OpenTask) -> Iterator[str]:
        if record.ranking and record.status != "failed":
            for name in rescore(self.registry, record, opened, _ignore).wrong:
                yield f"its {name} is not what its rankings give"


def _ignore(line: str) -> None:
    """Do nothing with a line on a metric that raised: it is none of the record's."""


def _faults_of_extent(record: Record) -> Iterator[str]:
    coverage = record.coverage
    if record.status != "complete":
        yield f"its status is {record.status}"
    if coverage.train_items != coverage.train_total or coverage.queries != coverage.queries_total:
        yield (
            f"it covers {coverage.train_items} of {coverage.train_total} training items and {coverage.queries} of"
            f" {coverage.queries_total} queries"
        )
    if record.metric(record.task.main_metric) is None and not record.task.scale:
        yield f"it lacks its task's main metric {record.task.main_metric}"


def _faults_of_origin(kept: KeptRecord) -> Iterator[str]:
    record, source = kept.record, kept.record.provenance
    if not re.fullmatch(r"[0-9a-f]{64}", record.identity):
        yield "its identity is no hash"
    expected = record_path(kept.path.parent.parent, record.task.name, record.method.label, record.identity)
    if kept.path.name != expected.name:
        yield f"its file is to be called {expected.name}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]* \S+", record.method.distribution):
        yield (
            f"its method is of '{record.method.distribution}': a package and its version are needed, so that others can"
            " install it"
        )
    if source.git_dirty:
        yield "it was made with uncommitted changes of attrbench"
    if command_fault := unsafe_command(record.command):
        yield command_fault


ROUNDING = 1e-5
"""Difference of a mean and its values that comes of values that were rounded when they were written."""
VERBS = ("run", "tune")
FLAGS = ("-m", "-t", "--by", "--limit-train", "--limit-queries", "--device", "--seed", "--ground-truth")
"""What the command of a record may consist of: nothing that names a place on a machine to write to."""


def unsafe_command(command: str) -> str:
    """Return why the command of a record is none that a run writes; an empty string for one that is."""
    try:
        words = shlex.split(command)
    except ValueError:
        return "its command can't be read"
    if words[:1] != ["attrbench"] or words[1:2] not in [[verb] for verb in VERBS]:
        return "its command is not one of attrbench run or attrbench tune"
    flags, values = words[2::2], words[3::2]
    if len(flags) != len(values) or (unknown := [flag for flag in flags if flag not in FLAGS]):
        return f"its command has other parts than {', '.join(FLAGS)}" + (f": {unknown[0]}" if flags else "")
    return ""


def _faults_of_numbers(record: Record) -> Iterator[str]:
    for result in record.metrics:
        if not result.finite:
            yield f"its {result.name} has values that are NaN or infinite"
        elif not _is_mean(result):
            yield f"its {result.name} is not the mean of the queries' values, or lies outside of its interval"
    if record.latency is not None and not record.latency.finite:
        yield "its times are NaN or infinite"


def _is_mean(result: MetricResult) -> bool:
    mean = not result.per_query or math.isclose(result.value, float(np.mean(result.per_query)), abs_tol=ROUNDING)
    low, high = (result.value if bound is None else bound for bound in (result.low, result.high))
    return mean and low - ROUNDING <= result.value <= high + ROUNDING


def _faults_of_ranking(record: Record, items: int) -> Iterator[str]:
    if record.status == "failed" or record.task.scale:
        return
    if len(record.ranking) != record.coverage.queries:
        yield f"it has {len(record.ranking)} rankings for {record.coverage.queries} queries"
    for query, ids in enumerate(record.ranking):
        named = [item for item in ids if item >= 0]
        if len(set(named)) != len(named) or any(not -1 <= item < items for item in ids):
            yield f"the ranking of query {query} names an item twice, or one that there is not"
            return
