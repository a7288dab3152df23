"""Compute new metrics of records that exist, from the rankings that they hold and the task's groups, without a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from attrbench.contracts.metric import Outcome
from attrbench.contracts.record import Record
from attrbench.contracts.task import OpenTask
from attrbench.evaluation.score import metric_results, shared_groups

if TYPE_CHECKING:
    from attrbench.plugins.registry import Registry


@dataclass(frozen=True)
class Rescored:
    """A record with the metrics that were added to it.

    Attributes:
        record: the record with them.
        added: their names with cut-offs.
        lacking: metrics that gave nothing, because they do not apply or need the scores of all items.
        wrong: metrics that the record has and that its ranking contradicts.
    """

    record: Record
    added: Sequence[str]
    lacking: Sequence[str]
    wrong: Sequence[str]


def new_metrics(registry: Registry, record: Record) -> list[str]:
    """Return the registered metrics that a record was never asked for; one of version 0.1 was for attrbench's own."""
    known = {*record.metrics_asked, *(result.metric for result in record.metrics)}
    own = {name for name in registry.names("metric") if registry.provider("metric", name).distribution == "attrbench"}
    return [name for name in registry.names("metric") if name not in known | (set() if record.metrics_asked else own)]


def rescore(registry: Registry, record: Record, opened: OpenTask, note: Callable[[str], None]) -> Rescored:
    """Return a record with all registered metrics that its rankings and the task's groups are enough for.

    What the record has already stays as it is.

    Args:
        registry: the plugins.
        record: a record with rankings.
        opened: its task.
        note: called with one line for each metric that raised.
    """
    coverage = record.coverage
    train, queries = opened.train.groups[: coverage.train_items], opened.queries.groups[: coverage.queries]
    relevant = shared_groups(queries, train) if any(train) and all(queries) else None
    outcome = Outcome(ranked=np.array(record.ranking, np.int64), relevant=relevant)
    results = metric_results(registry, outcome, record.seed, note)
    had = {result.name: result for result in record.metrics}
    added = [result for result in results if result.name not in had]
    wrong = [
        result.name
        for result in results
        if result.name in had and not np.allclose(result.per_query, had[result.name].per_query, atol=1e-9)
    ]
    asked = sorted({*record.metrics_asked, *registry.names("metric")})
    whole = record.model_copy(update={"metrics": [*record.metrics, *added], "metrics_asked": asked})
    found = {result.metric for result in whole.metrics}
    lacking = [name for name in new_metrics(registry, record) if name not in found]
    return Rescored(whole, [result.name for result in added], lacking, wrong)
