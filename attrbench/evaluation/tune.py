"""Choose options on tuning queries: try each value of a sweep there, then run the best on the reported queries.

Nothing is ever chosen by the queries that a leaderboard reports. Training features serve both sets of queries and all
values, so that tuning costs little more than the tuning queries' own gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attrbench.contracts.record import TUNING_RUNS, Record
from attrbench.contracts.record_origin import Tried, Tuned
from attrbench.errors import AttrbenchError, UsageError, unknown_name
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.ground_truth_step import request_ground_truths
from attrbench.evaluation.pooled_run import run_on
from attrbench.evaluation.requests import MethodRequest, Sweep, TaskRequest, with_options, without_doubles
from attrbench.evaluation.task_run import Result

if TYPE_CHECKING:
    from attrbench.evaluation.progress import Reporter
    from attrbench.plugins.registry import Registry


@dataclass(frozen=True, repr=False)
class Choice:
    """The option value that `tune` chose from a sweep (a set of values), with the metric of each value tried.

    Attributes:
        sweep: the values.
        tuned: what each of them reached on the tuning queries.
        chosen: the best of them; None where none has a result.
        advice: what speaks for a wider sweep; empty where nothing does.
        failed: the labels of values that failed on the tuning queries, and so were not among the choices.
    """

    sweep: Sweep
    tuned: Tuned
    chosen: MethodRequest | None
    advice: str = ""
    failed: tuple[str, ...] = ()

    def without_result(self) -> AttrbenchError:
        """Return the error that says why no value of the sweep could be chosen."""
        first = self.tuned.tried[0]
        return AttrbenchError(
            f"-m {self.sweep.text}: no value has a result on the tuning queries; {first.label}: {first.why}"
        )

    def __repr__(self) -> str:
        chosen = "nothing chosen" if self.chosen is None else f"chosen {self.chosen.label}"
        return f"<Choice of {self.sweep.text} on {self.tuned.task} by {self.tuned.by}: {chosen}>"


class TuningRun:
    """A tuning run: chooses options on the tuning queries of one task, then runs them on the reported queries.

    Args:
        registry: the plugins.
        task: the task with its reported queries.
        sweeps: what to choose from.
        settings: how to run. Records of the tuning queries are kept in a folder of the cache.
        reporter: who is told.
        by: name of the metric that decides, such as `detection-rate@10`. One of a ground truth (`lds`) needs models
            that were trained for the tuning queries' sake; where there are such models it decides by default, and
            elsewhere the task's main metric does.

    Raises:
        UsageError: for a task without tuning queries, or whose queries are those already; for an unknown metric.
    """

    def __init__(
        self,
        registry: Registry,
        task: TaskRequest,
        sweeps: Sequence[Sweep],
        settings: RunSettings,
        reporter: Reporter,
        by: str | None = None,
    ) -> None:
        self._registry, self._reporter = registry, reporter
        self._task, self._sweeps, self._settings = task, sweeps, settings
        self._tuning = tuning_request(registry, task)
        self._with_models = _metrics_with_models(registry, self._tuning, settings)
        self._by = by or next(iter(self._with_models), task.task.meta.main_metric)
        known = [kind.name for kind in registry.metrics()]
        retrained = [name for truth in registry.ground_truths() for name in truth.tuning_metrics]
        if by is not None and by not in retrained and by.partition("@")[0] not in [*known, *retrained]:
            raise unknown_name("metric", by, [*known, *retrained])
        self._retrain = self._by in retrained

    def choices(self) -> list[Choice]:
        """Return the chosen option value of each sweep, after running all values on the tuning queries.

        Raises:
            UsageError: where no value that ran has the metric that is to decide.
        """
        self._settings.make_folders()
        out = self._settings.cache / TUNING_RUNS
        settings = replace(self._settings, out=out, retrain=self._retrain, ground_truths=(), seal_records=True)
        every = without_doubles(request for sweep in self._sweeps for request in sweep.requests)
        run = run_on(self._registry, self._tuning, every, settings, self._reporter)
        records = {result.record.identity: result.record for result in run.results()}
        self._check_metric(list(records.values()))
        return [
            self._choice(sweep, [records.get(run.records.identity(r)) for r in sweep.requests])
            for sweep in self._sweeps
        ]

    def results(self, choices: Sequence[Choice]) -> Iterator[Result]:
        """Yield the results of the chosen options on the reported queries."""
        chosen = [
            replace(choice.chosen, optional=False, tuned=choice.tuned)
            for choice in choices
            if choice.chosen is not None
        ]
        if chosen:
            yield from run_on(self._registry, self._task, chosen, self._settings, self._reporter).results()

    def _check_metric(self, records: Sequence[Record]) -> None:
        ran = [record for record in records if record.status != "failed"]
        if ran and all(record.metric(self._by) is None for record in ran):
            known = ", ".join(dict.fromkeys(metric.name for record in ran for metric in record.metrics)) or "none"
            missing = self._retrain and self._by not in self._with_models
            build = f"'attrbench ground-truth build {self._tuning.label}' trains models for it; or " * missing
            raise UsageError(
                f"task {self._tuning.label} gives no {self._by} on its tuning queries, by which to choose: {build}use"
                f" --by with one of those it gives ({known})"
            )

    def _choice(self, sweep: Sweep, records: Sequence[Record | None]) -> Choice:
        """Return the choice of the best option value of a sweep by the records of its values (None: no record)."""
        there = [record for record in records if record is not None]
        values = zip(sweep.requests, records, strict=True)
        tried = [_tried(request.label, record, self._by) for request, record in values]
        better = next((r.higher_is_better for record in there if (r := record.metric(self._by))), True)
        best = best_of([value.value for value in tried], better)
        tuned = Tuned(
            sweep=sweep.text,
            by=self._by,
            task=self._tuning.label,
            fingerprint=next((record.task.fingerprint for record in there), ""),
            queries=max((record.coverage.queries for record in there), default=0),
            tried=tried,
        )
        failed = tuple(record.method.label for record in there if record.status == "failed")
        if best is None:
            return Choice(sweep, tuned, None, failed=failed)
        alone = sum(value.value == tried[best].value for value in tried) == 1
        advice = edge_advice(sweep.requests, best) if alone else ""
        return Choice(sweep, tuned, sweep.requests[best], advice, failed)


def tuning_request(registry: Registry, task: TaskRequest) -> TaskRequest:
    """Return the request of the same task with its tuning queries in place of the reported ones.

    Raises:
        UsageError: where it has none, or has them already, or gives no results by which to choose.
    """
    tuning = task.task.tuning
    if not tuning:
        raise UsageError(f"task {task.task.meta.name} has no tuning queries, on which options could be chosen")
    if task.task.scale:
        raise UsageError(f"task {task.task.meta.name}: with random weights no option can be chosen")
    if task.has_tuning_queries:
        raise UsageError(f"task {task.label}: these queries are for choosing options, and nothing is reported on them")
    return with_options(registry, task, tuning)


def _metrics_with_models(registry: Registry, tuning: TaskRequest, settings: RunSettings) -> list[str]:
    """Return the metrics of ground truths that have models for the tuning queries; none for a limited run."""
    if settings.limit_train is not None or settings.limit_queries is not None:
        return []
    truths = [truth for truth in request_ground_truths(registry, ()).values() if truth.tuning_metrics]
    there = [truth for truth in truths if truth.state(tuning.task, settings.cache) is not None]
    return [name for truth in there for name in truth.tuning_metrics]


def best_of(values: Sequence[float | None], higher_is_better: bool) -> int | None:
    """Return the index of the best metric value, of equal ones the first; None if all values are None."""
    indices = [index for index, value in enumerate(values) if value is not None]
    sign = 1 if higher_is_better else -1
    return max(indices, key=lambda index: (sign * (values[index] or 0.0), -index), default=None)


def edge_advice(requests: Sequence[MethodRequest], best: int) -> str:
    """Return advice to widen a sweep whose single varied option is best at the smallest or largest value; else ''."""
    given = [request.spec.given for request in requests]
    varied = [name for name in given[0] if len({each[name] for each in given}) > 1]
    if len(varied) != 1:
        return ""
    try:
        values = [float(each[varied[0]]) for each in given]
    except ValueError:
        return ""
    if min(values) < values[best] < max(values):
        return ""
    end = "smallest" if values[best] == min(values) else "largest"
    return f"{varied[0]}={given[best][varied[0]]} is the {end} value that was tried: a better one may lie beyond"


def _tried(label: str, record: Record | None, by: str) -> Tried:
    """Return the metric that one option value reached on the tuning queries, or the reason why there is none."""
    if record is None:
        return Tried(label=label, why="passed over")
    result = record.metric(by)
    if record.status not in ("complete", "limited"):
        return Tried(label=label, why=record.error or record.status)
    if result is None:
        return Tried(label=label, why=f"no {by}")
    return Tried(label=label, value=result.value, low=result.low, high=result.high)
