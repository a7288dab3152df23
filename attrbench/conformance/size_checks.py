"""Conformance checks of a method's declared features and storage, of its record, and of a one-item training set."""

from __future__ import annotations

import numpy as np

from attrbench.conformance.check_report import Finding, failed, passed, skipped
from attrbench.conformance.checked_method import Subject
from attrbench.conformance.held_features import holdings
from attrbench.conformance.score_comparison import scores_of
from attrbench.conformance.toy_task import SILENT
from attrbench.contracts.record import Record
from attrbench.errors import UsageError
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.task_run import Result, TaskRun

SLACK = 2048
"""Bytes that need not be declared: a seed, a name, a few numbers for each item."""
FACTOR = 1.5


def features(subject: Subject) -> Finding:
    """Check that equal options declare equal, hashable features, so that stored features can be reused."""
    check = "features"
    once, twice = subject.method.features(), subject.fresh().method.features()
    try:
        same = once == twice == subject.declared and hash(once) == hash(twice)
    except TypeError as error:
        return failed(check, f"the declaration can't be hashed: {error}", "build it from tuples, not from lists")
    if not same:
        return failed(
            check,
            "two instances with the same options declare different features",
            "let features() depend on self.options alone",
        )
    sources = len(set(subject.sources))
    return passed(check, f"the same declaration from equal options, of {sources} gradient sources")


def record(subject: Subject) -> Finding:
    """Check that a run of the method writes a complete record, and that a second run reuses this record."""
    check = "record"
    if not np.isfinite(subject.scores[~np.isneginf(subject.scores)]).all():
        return skipped(check, "runs refuse scores that are NaN")
    bench = subject.bench
    (result,) = _run(subject)
    written = Record.model_validate_json(result.path.read_bytes())
    lacking = _lacking(written, bench.task().task.meta.main_metric)
    if lacking:
        return failed(check, lacking, "see `attrbench run`; the record's error says what the method raised")
    (again,) = _run(subject)
    if not again.reused:
        return failed(
            check,
            "the same command does not find its own record",
            "give options that are the same in every process (no sets, no objects with a changing text)",
        )
    peak = (written.peak_memory_bytes or 0) / 1e6
    return passed(check, f"{written.status}, {len(written.metrics)} metrics, peak memory {peak:.0f} MB; found again")


def _run(subject: Subject) -> list[Result]:
    """Return the result of a run on the queries before the one with zero gradients, which may have no ranking."""
    bench = subject.bench
    settings = bench.settings(limit_queries=SILENT)
    return list(TaskRun(bench.registry, bench.task(), [subject.request], settings, Silent()).results())


def _lacking(record: Record, main_metric: str) -> str:
    """Return in words what a run's record lacks (metric, storage, latency, memory); empty if it is complete."""
    if record.status not in ("complete", "limited"):
        return f"the record is {record.status}: {record.error or 'gradients or rankings have gaps'}"
    if record.metric(main_metric) is None:
        return f"the record lacks {main_metric}, has {', '.join(metric.name for metric in record.metrics) or 'none'}"
    if record.storage is None or record.latency is None or not record.peak_memory_bytes:
        return "the record lacks storage, latency or peak memory"
    if min(record.storage.rows, record.storage.shared, record.storage.index) < 0:
        return "the record has a negative storage"
    return ""


def storage(subject: Subject) -> Finding:
    """Check that the scorer holds no more memory than it declares by its `size()`."""
    check = "storage"
    scorer = subject.scorer
    size = scorer.size()
    held = holdings(scorer, "scorer")
    declared = size.rows + size.shared + size.index
    allowed = round(FACTOR * declared) + SLACK
    where = f"{_kilo(held.bytes)} held, {_kilo(declared)} declared"
    if held.bytes > allowed:
        path, largest = held.largest
        return failed(
            check,
            f"the scorer holds more than it declares: {where}; the largest is {path} with {_kilo(largest)}",
            "count in size() all that is kept for a new query: rows an item, shared state, index",
        )
    if held.indexes and size.index <= 0:
        return failed(check, f"{held.indexes[0]} is a search index, and size().index is 0", "declare its bytes")
    return passed(check, where + (f" for {held.indexes[0]} among others" if held.indexes else ""))


def _kilo(size: int) -> str:
    return f"{size / 1000:,.1f} kB"


def one_item(subject: Subject) -> Finding:
    """Check that the method can score and rank a training set of a single item, or refuses it clearly."""
    check = "one-item"
    bench = subject.bench
    advice = "allow for n = 1 in statistics over the training set, or refuse it in check() with a UsageError"
    try:
        subject.method.check(1)
        single = bench.features(subject.fresh(), bench.settings(limit_train=1))
        scorer = single.fit()
    except UsageError as error:
        return skipped(check, f"refused: {error}")
    scores = scores_of(scorer, single.query, 1)
    ids = scorer.top(single.query, 1).ids
    bad = ~np.isfinite(scores[:, 0]) & np.isfinite(subject.scores[:, 0])  # the rest is for the check `finite`
    if bad.any() or (ids != 0).any():
        return failed(check, f"with one training item scores are {scores[:, 0]} and top(1) is {ids[:, 0]}", advice)
    return passed(check, "a training set of one item is ranked, with finite scores")
