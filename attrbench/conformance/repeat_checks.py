"""Conformance checks that scores do not depend on batching, on blocks of rows, or on repetition."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attrbench.conformance.check_report import Finding, failed, passed
from attrbench.conformance.checked_method import Subject, exhaustive_scores
from attrbench.conformance.score_comparison import ENGINE, ROUNDING, Scores, difference, other_random_numbers, scores_of
from attrbench.conformance.toy_task import FEW_QUERIES
from attrbench.contracts.computation import Engine

BATCH = 7
"""A batch size in noisy samples that divides neither the number of items nor that of timesteps."""

Way = tuple[str, float, Scores, Scores]
"""(what was changed, tolerance of the scores, scores after the change, scores before)."""


def batches(subject: Subject) -> Finding:
    """Check that scores do not depend on how queries are grouped, rows are read in blocks, or gradients are batched."""
    return _compared(
        "batches",
        subject,
        _batches(subject),
        "compute each query on its own terms: no statistic over the queries at hand, no noise drawn batch by batch",
    )


def _batches(subject: Subject) -> Iterator[Way]:
    count, query = subject.count, subject.features.query
    single = [scores_of(subject.scorer, query.query(index), count) for index in range(len(query.ids))]
    yield "queries one by one", ROUNDING, np.concatenate(single), subject.scores
    back = np.arange(len(query.ids))[::-1]
    reverse = scores_of(subject.scorer, query.select(back), count)
    yield "queries in reverse", ROUNDING, reverse[back], subject.scores
    recut = subject.features.gathered(np.arange(count), "/recut")
    yield "rows in small blocks", ROUNDING, scores_of(recut.fit(), recut.query, count), subject.scores
    expected = exhaustive_scores(subject.features)
    if expected is None or not subject.sources:
        return
    tolerance = ENGINE if all(source.precision != "bf16" for source in subject.sources) else 30 * ENGINE
    bench = subject.bench
    small = bench.features(subject.fresh(), bench.settings("small", engine=Engine(batch_size=BATCH)))
    scores = exhaustive_scores(small)
    assert scores is not None
    yield f"--batch-size {BATCH}", tolerance, scores, expected
    if any(feature.depends_on_items() for feature in query.views):
        few = bench.features(subject.fresh(), bench.settings("few", limit_queries=FEW_QUERIES))
        scores = exhaustive_scores(few)
        assert scores is not None
        yield f"--limit-queries {FEW_QUERIES}", tolerance, scores, expected[:FEW_QUERIES]


def repeats(subject: Subject) -> Finding:
    """Check that fitting the method again, or running everything again, gives equal scores (determinism)."""
    return _compared(
        "repeats",
        subject,
        _repeats(subject),
        "derive randomness from context.seed, an option and the keys of items and query (numpy.random), never"
        " from a global generator, the clock or hash()",
    )


def _repeats(subject: Subject) -> Iterator[Way]:
    query, count = subject.features.query, subject.count
    with other_random_numbers(1):
        yield "asking again", ROUNDING, scores_of(subject.scorer, query, count), subject.scores
        yield "fitting again", ROUNDING, scores_of(subject.features.fit(), query, count), subject.scores
    expected = exhaustive_scores(subject.features)
    if expected is None:
        return
    with other_random_numbers(2):
        bench = subject.bench
        scores = exhaustive_scores(bench.features(subject.fresh(), bench.settings("again")))
    assert scores is not None
    yield "a second run from nothing", ENGINE, scores, expected


def _compared(check: str, subject: Subject, ways: Iterator[Way], advice: str) -> Finding:
    """Return a failed finding for the first variant of a run that changes scores beyond its tolerance, else passed."""
    tried, largest = [], 0.0
    for name, tolerance, scores, expected in ways:
        worst = difference(scores, expected)
        if worst.size > tolerance:
            return failed(check, f"{name}: {worst.beyond(tolerance)}", worst.advice(advice))
        tried.append(name)
        largest = max(largest, worst.size)
    return passed(check, f"{', '.join(tried)}: scores change by at most {largest:.0e}")
