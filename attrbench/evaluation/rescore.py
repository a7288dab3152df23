"""Compute new metrics of records that exist, from the rankings that they hold, without a run.

What they are compared with is the task's groups and the retrained models that are there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from attrbench.contracts.ground_truth import Effect, OpenGroundTruth
from attrbench.contracts.metric import Outcome
from attrbench.contracts.record import MetricResult, Record
from attrbench.contracts.task import OpenTask
from attrbench.errors import AttrbenchError, error_line
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.score import metric_results, shared_groups
from attrbench.metrics.agreement import agreement

if TYPE_CHECKING:
    from attrbench.plugins.registry import Registry


ROUNDING = 1e-5
"""Difference of two numbers that comes of one that was rounded when it was written."""

TOP, SAME_RANKINGS = 10, 0.99
"""A run on another machine is the same where so large a share of the first items of its rankings is."""
OF_MODELS = ("_subsets", "_training_seeds", "_seed_correlation", "_ceiling", "groups", "group_seeds")
"""Ends of names of facts that tell of retrained models and not of a method."""
COUNTS = ("_subsets", "_training_seeds", "groups", "group_seeds")
"""Ends of names of those that count models."""
SEPARATOR = re.compile("[-_]")


@dataclass(frozen=True)
class Rescored:
    """A record with the metrics that were added to it.

    Attributes:
        record: the record with them.
        added: their names with cut-offs, and those of metrics that got parts of their training noise.
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
    effects = [effect for truth in truths if coverage.is_whole for effect in _effects(truth, outcome, record, note)]
    differing = [_differing(record.facts, effect.facts) for effect in effects]
    same = [effect for effect, lines in zip(effects, differing, strict=True) if not lines]
    results = [result for effect in same for result in effect.metrics]
    results += metric_results(registry, outcome, record.seed, note)
    had = {result.name: result for result in record.metrics}
    added = [result for result in results if result.name not in had]
    wrong = [result.name for result in results if result.name in had and not _agree(result, had[result.name])]
    asked = sorted({*record.metrics_asked, *registry.names("metric")})
    adding = [effect for effect in same if any(result.name not in had for result in effect.metrics)]
    facts = {name: value for effect in adding for name, value in effect.facts.items()}
    agreeing = [result for result in results if result.name in had and result.name not in wrong]
    whole, changed = _with_noise(_with(record, added, facts), agreeing)
    whole = whole.model_copy(update={"metrics_asked": asked})
    found = {result.metric for result in whole.metrics}
    lacking = [name for name in new_metrics(registry, record) if name not in found]
    other_models = [line for lines in differing for line in lines]
    names = [*(result.name for result in added), *changed]
    return Rescored(whole, names, lacking, wrong, other_models)


def _with(record: Record, added: Sequence[MetricResult], facts: Mapping[str, float]) -> Record:
    """Return a record with metrics more, and with those of the facts that it does not have."""
    new = {name: value for name, value in facts.items() if name not in record.facts}
    return record.model_copy(update={"metrics": [*record.metrics, *added], "facts": record.facts | new})


def with_metrics_of(record: Record, again: Record) -> tuple[Record, list[str]]:
    """Return a record with what a later run of the same method has beyond it, and the names of those metrics.

    For metrics that need the scores of all items, which records do not hold, and for the parts of a metric's training
    noise, by which runs are compared. What the record has stays as it is, its times too.

    Args:
        record: the record that lacks them.
        again: the record of the later run, on any machine.

    Raises:
        AttrbenchError: where the later run is not the same: other queries, options, retrained models or rankings.
    """
    _check_same_run(record, again)
    if lines := _differing(_facts_of_models(again), _facts_of_models(record)):
        raise AttrbenchError(f"the other run has other retrained models: {lines[0]}")
    had = {result.name for result in record.metrics}
    added = [result for result in again.metrics if result.name not in had]
    whole, changed = _with_noise(_with(record, added, again.facts), again.metrics)
    return whole, [*(result.name for result in added), *changed]


def with_models_of(record: Record, again: Record) -> tuple[Record, list[str]]:
    """Return a record with what more retrained models say of it, by a later run of the same, and the metrics' names.

    For a bank of models that was enlarged: the later run's metrics of it take the place of the record's, with the
    facts. Nothing else changes; nothing at all where the models are the same.

    Args:
        record: the record, of fewer models.
        again: the record of the later run, on any machine.

    Raises:
        AttrbenchError: where the later run is not the same, or has fewer models.
    """
    _check_same_run(record, again)
    here, there = _facts_of_models(record), _facts_of_models(again)
    kinds = {_kind(name) for name, value in there.items() if name not in here or not _is_equal(value, here[name])}
    for name, value in there.items():
        if name.endswith(COUNTS) and value < here.get(name, 0):
            raise AttrbenchError(
                f"the other run has fewer retrained models: its {name} is {value:g}, of {here[name]:g}"
            )
    new = {result.name: result for result in again.metrics if _kind(result.metric) in kinds}
    kept = [result for result in record.metrics if _kind(result.metric) not in kinds or result.name in new]
    metrics = [new.get(result.name, result) for result in kept]
    metrics += [result for name, result in new.items() if name not in {result.name for result in kept}]
    facts = {name: value for name, value in again.facts.items() if _kind(name) in kinds}
    whole = record.model_copy(update={"metrics": metrics, "facts": {**record.facts, **facts}})
    return whole, [name for name, result in new.items() if result != record.metric(name)]


def _kind(name: str) -> str:
    """Return the first word of the name of a metric or fact, without an s at its end: `groups` is of `group-top1`."""
    return SEPARATOR.split(name)[0].removesuffix("s")


def _check_same_run(record: Record, again: Record) -> None:
    """Check that a later run is the same as a record's, but for the machine and the retrained models."""
    parts = [(each.status, each.task.fingerprint, each.coverage.extent) for each in (record, again)]
    if parts[0] != parts[1]:
        raise AttrbenchError("the other run is of another task, of other items or queries, or not complete")
    if (again.method.version, again.method.options) != (record.method.version, record.method.options):
        raise AttrbenchError("the other run has other options or another version of the method")
    if (overlap := _overlap(record, again)) < SAME_RANKINGS:
        raise AttrbenchError(f"the other run ranks otherwise: of the first {TOP} items {overlap:.1%} are the same")


def without(record: Record, names: Collection[str]) -> Record:
    """Return a record without the metrics of these names."""
    return record.model_copy(update={"metrics": [each for each in record.metrics if each.name not in names]})


def _with_noise(record: Record, results: Sequence[MetricResult]) -> tuple[Record, list[str]]:
    """Return a record whose metrics have the parts of equal results' training noise, where they lack them; and names.

    The error itself stays as it is.
    """
    found = {result.name: result.noise for result in results if result.noise is not None and result.noise.parts}
    metrics, changed = list(record.metrics), []
    for place, result in enumerate(metrics):
        noise = found.get(result.name)
        if noise is not None and (result.noise is None or result.noise.parts is None):
            error = noise.error if result.noise is None else result.noise.error
            metrics[place] = result.model_copy(update={"noise": noise.model_copy(update={"error": error})})
            changed.append(result.name)
    return record.model_copy(update={"metrics": metrics}), changed


def _facts_of_models(record: Record) -> dict[str, float]:
    """Return what a record says of the retrained models that it was compared with."""
    named = {name: value for name, value in record.facts.items() if name.endswith(OF_MODELS)}
    return {name: value for name, value in named.items() if not name.endswith("_over_ceiling")}


def _overlap(record: Record, again: Record) -> float:
    """Return the share of the first items of a record's rankings that are among the first of another's."""
    tops = [np.array(each.ranking, np.int64)[:, :TOP] for each in (record, again)]
    return agreement((record.method.label, again.method.label), tops, (None, None)).means()["overlap"] or 0.0


def _effects(truth: OpenGroundTruth, outcome: Outcome, record: Record, note: Callable[[str], None]) -> Iterator[Effect]:
    """Yield what a ground truth says of a ranking; nothing for one that trains models for it, or that raised."""
    try:
        if not truth.jobs(outcome):
            yield truth.measure(outcome, record.seed, Silent().stage)
    except Exception as error:
        note(error_line(error))


def _differing(facts: Mapping[str, float], here: Mapping[str, float]) -> list[str]:
    """Return a line for each fact of retrained models that is another in a record than in the models here."""
    return [
        f"its {name} is {facts[name]:.6g}, and that of the models here is {value:.6g}"
        for name, value in here.items()
        if name in facts and not _is_equal(value, facts[name])
    ]


def _is_equal(a: float, b: float) -> bool:
    return math.isclose(a, b, abs_tol=ROUNDING)


def _agree(result: MetricResult, had: MetricResult) -> bool:
    return np.shape(result.per_query) == np.shape(had.per_query) and np.allclose(
        result.per_query, had.per_query, atol=1e-9
    )
