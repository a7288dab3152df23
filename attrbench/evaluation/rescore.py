"""Compute new metrics of records that exist, from the rankings that they hold, without a run.

What they are compared with is the task's groups and the retrained models that are there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from attrbench.contracts.ground_truth import Effect, OpenGroundTruth
from attrbench.contracts.metric import Outcome
from attrbench.contracts.record import Coverage, MetricResult, Record
from attrbench.contracts.task import OpenTask
from attrbench.errors import AttrbenchError, error_line
from attrbench.evaluation.score import metric_results, shared_groups

if TYPE_CHECKING:
    from attrbench.plugins.registry import Registry


ROUNDING = 1e-5
"""Difference of two numbers that comes of one that was rounded when it was written."""


@dataclass(frozen=True)
class Rescored:
    """A record with the metrics that were added to it.

    Attributes:
        record: the record with them.
        added: their names with cut-offs.
        lacking: metrics that gave nothing, because they do not apply or need the scores of all items.
        wrong: metrics that the record has and that its ranking contradicts.
        other_models: facts of retrained models that are others here than in the record, as lines; the record's metrics
            of those stay, and none is added.
    """

    record: Record
    added: Sequence[str]
    lacking: Sequence[str]
    wrong: Sequence[str]
    other_models: Sequence[str] = ()


def new_metrics(registry: Registry, record: Record) -> list[str]:
    """Return the registered metrics that a record was never asked for; one of version 0.1 was for attrbench's own."""
    known = {*record.metrics_asked, *(result.metric for result in record.metrics)}
    own = {name for name in registry.names("metric") if registry.provider("metric", name).distribution == "attrbench"}
    return [name for name in registry.names("metric") if name not in known | (set() if record.metrics_asked else own)]


def rescore(
    registry: Registry,
    record: Record,
    opened: OpenTask,
    note: Callable[[str], None],
    truths: Sequence[OpenGroundTruth] = (),
) -> Rescored:
    """Return a record with all registered metrics that its rankings and the task are enough for.

    What the record has already stays as it is.

    Args:
        registry: the plugins.
        record: a record with rankings.
        opened: its task.
        note: called with one line for each metric and ground truth that raised.
        truths: the task's ground truths; what they say of rankings is added where they train nothing for a method and
            the record covers the task.
    """
    coverage = record.coverage
    train, queries = opened.train.groups[: coverage.train_items], opened.queries.groups[: coverage.queries]
    relevant = shared_groups(queries, train) if any(train) and all(queries) else None
    outcome = Outcome(ranked=np.array(record.ranking, np.int64), relevant=relevant)
    effects = [effect for truth in truths if _is_whole(coverage) for effect in _effects(truth, outcome, record, note)]
    other_models = [line for effect in effects for line in _other_facts(effect, record)]
    same = [effect for effect in effects if not _other_facts(effect, record)]
    results = [result for effect in same for result in effect.metrics]
    results += metric_results(registry, outcome, record.seed, note)
    had = {result.name: result for result in record.metrics}
    added = [result for result in results if result.name not in had]
    wrong = [result.name for result in results if result.name in had and not _agree(result, had[result.name])]
    asked = sorted({*record.metrics_asked, *registry.names("metric")})
    facts = record.facts | {name: value for effect in same for name, value in effect.facts.items()}
    update = {"metrics": [*record.metrics, *added], "metrics_asked": asked, "facts": facts | record.facts}
    whole = record.model_copy(update=update)
    found = {result.metric for result in whole.metrics}
    lacking = [name for name in new_metrics(registry, record) if name not in found]
    return Rescored(whole, [result.name for result in added], lacking, wrong, other_models)


def _is_whole(coverage: Coverage) -> bool:
    return coverage.train_items == coverage.train_total and coverage.queries == coverage.queries_total


def _effects(truth: OpenGroundTruth, outcome: Outcome, record: Record, note: Callable[[str], None]) -> Iterator[Effect]:
    """Yield what a ground truth says of a ranking; nothing for one that trains models for it, or that raised."""
    try:
        if not truth.jobs(outcome):
            yield truth.measure(outcome, record.seed, _silent)
    except AttrbenchError as error:
        note(error_line(error))


@contextmanager
def _silent(name: str, steps: int) -> Iterator[Callable[[], None]]:
    """Show no progress."""
    yield lambda: None


def _other_facts(effect: Effect, record: Record) -> list[str]:
    """Return the facts of retrained models that are others than the record's, one line each."""
    return [
        f"its {name} is {record.facts[name]:.6g}, and that of the models here is {value:.6g}"
        for name, value in effect.facts.items()
        if name in record.facts and not math.isclose(value, record.facts[name], abs_tol=ROUNDING)
    ]


def _agree(result: MetricResult, had: MetricResult) -> bool:
    return np.shape(result.per_query) == np.shape(had.per_query) and np.allclose(
        result.per_query, had.per_query, atol=1e-9
    )
