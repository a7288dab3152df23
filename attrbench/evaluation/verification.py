"""Checks of a record before it joins a board: is it whole, does it say where it is from, does it fit its task."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator

import numpy as np

from attrbench.contracts.record import MetricResult, Record, record_path
from attrbench.contracts.record_files import KeptRecord
from attrbench.contracts.task import OpenTask
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.record_tasks import RecordTasks
from attrbench.evaluation.rescore import ROUNDING, rescore


def record_faults(kept: KeptRecord, tasks: RecordTasks) -> list[str]:
    """Return a line for each reason why a record can't join a board; empty where there is none."""
    record = kept.record
    found = [*_faults_of_extent(record), *_faults_of_origin(kept), *_faults_of_numbers(record)]
    opened = tasks.of(record)
    if isinstance(opened, str):
        return [*found, opened]
    return [*found, *_faults_of_ranking(record, len(opened.train)), *_contradictions(record, opened, tasks)]


def _contradictions(record: Record, opened: OpenTask, tasks: RecordTasks) -> Iterator[str]:
    if record.ranking and record.status != "failed":
        scored = rescore(tasks.registry, record, opened, Silent().note, tasks.truths_of(record))
        yield from (f"its {name} is not what its rankings give" for name in scored.wrong)
        yield from scored.other_models[:1]
        if record.task.main_metric in scored.added:
            yield f"it lacks its task's main metric {record.task.main_metric}, which its rankings give"


def _faults_of_extent(record: Record) -> Iterator[str]:
    coverage = record.coverage
    if record.status != "complete":
        yield f"its status is {record.status}"
    if not coverage.is_whole:
        yield (
            f"it covers {coverage.train_items} of {coverage.train_total} training items and {coverage.queries} of"
            f" {coverage.queries_total} queries"
        )
    main = record.task.main_metric
    if record.metric(main) is None and main.partition("@")[0] not in record.metrics_asked and not record.task.scale:
        yield f"it lacks its task's main metric {main}"


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
