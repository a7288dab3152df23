"""Checks that the same question gets the same answer, however the work is cut."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attrbench.conformance.check_report import Finding, failed, passed
from attrbench.conformance.checked_method import Subject, exhaustive_scores
from attrbench.conformance.score_comparison import ENGINE, ROUNDING, Scores, difference, other_random_numbers, scores_of
from attrbench.conformance.toy_task import FEW_QUERIES
from attrbench.contracts.computation import Engine

BATCH = 7
"""Pairs of item and timestep: a size that fits neither the items nor the timesteps."""

Way = tuple[str, float, Scores, Scores]
"""What was changed, the difference that it may make, the scores then and before."""


def batches(subject: Subject) -> Finding:
    """Scores do not depend on how queries are put together, how rows are cut or how large batches are."""
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
    found = exhaustive_scores(small)
    assert found is not None
    yield f"--batch-size {BATCH}", tolerance, found, expected
    if any(feature.depends_on_items() for feature in query.views):
        few = bench.features(subject.fresh(), bench.settings("few", limit_queries=FEW_QUERIES))
        found = exhaustive_scores(few)
        assert found is not None
        yield f"--limit-queries {FEW_QUERIES}", tolerance, found, expected[:FEW_QUERIES]


def repeats(subject: Subject) -> Finding:
    """Fitting again, and running everything again, gives the same scores."""
    return _compared(
        "repeats",
        subject,
        _repeats(subject),
        "derive randomness from context.seed, an option and the query's id (numpy.random.default_rng), never from a"
        " global generator, the clock or hash()",
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
        found = exhaustive_scores(bench.features(subject.fresh(), bench.settings("again")))
    assert found is not None
    yield "a second run from nothing", ENGINE, found, expected


def _compared(check: str, subject: Subject, ways: Iterator[Way], advice: str) -> Finding:
    """The first way that makes too large a difference, or the largest that any makes."""
    tried, largest = [], 0.0
    for name, tolerance, found, expected in ways:
        worst = difference(found, expected)
        if worst.size > tolerance:
            return failed(check, f"{name}: a score changes by {worst.size:.1%}, {worst}", advice)
        tried.append(name)
        largest = max(largest, worst.size)
    return passed(check, f"{', '.join(tried)}: scores change by at most {largest:.0e}")
