"""Build the records of methods on one task: the hash that identifies each, and the results of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.contracts.ground_truth import GroundTruth
from attrbench.contracts.method import Scorer
from attrbench.contracts.record import Coverage, MethodInfo, MetricResult, Record, TaskInfo
from attrbench.contracts.record_costs import Hardware, Latency, Quantiles, Storage
from attrbench.contracts.task import OpenTask, Task
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.feature_reader import FeatureReader
from attrbench.evaluation.ground_truth_step import finite, ground_truth_states
from attrbench.evaluation.meaningless import equal_line
from attrbench.evaluation.provenance import code_digest, distribution, hardware, provenance
from attrbench.evaluation.requests import MethodRequest, TaskRequest
from attrbench.evaluation.score import Measured, without_groups
from attrbench.evaluation.world import TaskWorld
from attrbench.store.fingerprint import fingerprint

if TYPE_CHECKING:
    from attrbench.plugins.registry import Registry


@dataclass(frozen=True)
class Scored:
    """The outcome of scoring all queries by one method: its features, scorer, fitting time, rankings and metrics.

    Attributes:
        reader: its features.
        scorer: what it fitted.
        fit_seconds: what fitting took.
        measured: what the scorer returned.
        metrics: what the metrics make of it.
    """

    reader: FeatureReader
    scorer: Scorer
    fit_seconds: float
    measured: Measured
    metrics: Sequence[MetricResult]


def run_hardware(registry: Registry, settings: RunSettings, device: torch.device) -> Hardware:
    """Return this machine's hardware; where a run's jobs are done on other machines, its class names their executor."""
    here, executor = hardware(device), settings.executor
    if not registry.executor(executor.partition(":")[0]).elsewhere:
        return here
    return here.model_copy(update={"hardware_class": f"{here.hardware_class}, and {executor}"})


def task_fingerprint(task: Task[Any], opened: OpenTask) -> str:
    """Return the hash of what makes runs on a task comparable: its version, options, training set and queries.

    Of local paths in the options the place does not count: the contents of the data are hashed with the items, those
    of the model by its own fingerprint.
    """
    meta, options = task.meta, task.options.model_dump(mode="json")
    shared = task.shared_options()
    parts: list[object] = [meta.name, meta.version, shared, opened.train.fingerprint, opened.queries.fingerprint]
    parts += [items.grouping for items in (opened.train, opened.queries) if items.grouping]
    parts += [] if shared == options else [opened.model_description.fingerprint]
    return fingerprint(parts)


class RecordBuilder:
    """A builder of the records (JSON results) of methods on one task, and of the hashes that identify them.

    Args:
        registry: the plugins.
        task: the task.
        settings: how to run.
        hardware: of this machine.
        truths: the ground truths that were asked for, by label.

    Attributes:
        left_out: the labels of those that apply to the task and can't be had.
    """

    def __init__(
        self,
        registry: Registry,
        task: TaskRequest,
        settings: RunSettings,
        hardware: Hardware,
        truths: Mapping[str, GroundTruth[Any]],
    ) -> None:
        self.registry = registry
        self.task = task
        self.settings = settings
        self.hardware = hardware
        self._truths = truths
        self.left_out: frozenset[str] = frozenset()
        self._codes: dict[type, str] = {}

    def code(self, request: MethodRequest) -> str:
        """Return the hash of the code of method and task, taken once a run, as a notebook may redefine classes."""
        kind = type(request.method)
        if kind not in self._codes:
            self._codes[kind] = code_digest(kind, type(self.task.task))
        return self._codes[kind]

    def identity(self, request: MethodRequest) -> str:
        """Return the hash of everything that decides one method's result, by which earlier records are reused."""
        meta, settings = self.task.task.meta, self.settings
        state = self.task.task.state()
        named = list(settings.ground_truths) if settings.retrain else []
        states = ground_truth_states(self._truths, self.task.task, settings.cache) if settings.retrain else {}
        return fingerprint(
            {
                **({} if state is None else {"state": state}),
                "task": [meta.name, meta.version, self.task.task.options.model_dump(mode="json")],
                "method": [request.spec.name, request.method.version, request.method.options.model_dump(mode="json")],
                "limits": [settings.limit_train, settings.limit_queries],
                **(
                    {}
                    if request.tuned is None
                    else {"tuned": request.tuned.model_dump(include={"sweep", "by", "task", "fingerprint"})}
                ),
                **({"ground truths": [named, states]} if named or states else {}),
                "seed": settings.seed,
                "hardware": self.hardware.times_class,
                "code": self.code(request),
            }
        )

    def without_results(self, request: MethodRequest, opened: OpenTask, coverage: Coverage) -> Record:
        """Return a method's record with task, options and provenance but no results, with status `failed`."""
        task, meta, method = self.task, self.task.task.meta, request.method
        options = task.task.options.model_dump(mode="json")
        return Record(
            identity=self.identity(request),
            status="failed",
            left_out=sorted(self.left_out),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            task=TaskInfo(
                name=meta.name,
                version=meta.version,
                label=task.label,
                options_given=task.spec.given,
                options=options,
                fingerprint=task_fingerprint(task.task, opened),
                main_metric=meta.main_metric,
                scale=task.task.scale,
            ),
            method=MethodInfo(
                name=request.spec.name,
                version=method.version,
                label=request.label,
                summary=method.summary,
                distribution=distribution(self.registry, request.spec.name, type(method)),
                options_given=request.spec.given,
                options=method.options.model_dump(mode="json"),
            ),
            coverage=coverage,
            tuned=request.tuned,
            hardware=self.hardware,
            provenance=provenance(self.code(request)),
            seed=self.settings.seed,
            command=self.settings.command(request, task),
        )

    def with_results(self, request: MethodRequest, world: TaskWorld, scored: Scored, coverage: Coverage) -> Record:
        """Return the record of a scored method: metrics, ranking, storage and latency; peak memory is missing."""
        reader, measured = scored.reader, scored.measured
        size = scored.scorer.size()
        lost = coverage.nonfinite or (measured.ranked < 0).any()
        notes = [*world.opened.notes, *([] if (reason := without_groups(world)) is None else [reason])]
        notes += [equal_line(equal, len(measured.ranked))] if (equal := measured.not_ranked()) else []
        return self.without_results(request, world.opened, coverage).model_copy(
            update={
                "status": "partial" if lost else "limited" if world.is_limited else "complete",
                "metrics": list(scored.metrics),
                "metrics_asked": self.registry.names("metric"),
                "query_groups": list(world.opened.queries.groups[: world.count("query")]),
                "notes": notes,
                "ranking": measured.ranked.tolist(),
                "facts": finite({**reader.facts(), **scored.scorer.facts()}),
                "storage": Storage(
                    rows=size.rows,
                    rows_on_disk=reader.rows_on_disk(),
                    shared=size.shared + reader.shared_bytes(),
                    index=size.index,
                    rows_if_kept=size.rows_if_kept,
                    row_error=reader.row_error(),
                ),
                "latency": _latency(reader, scored.fit_seconds + scored.scorer.build_seconds(), measured),
            }
        )


def _latency(reader: FeatureReader, fit_seconds: float, measured: Measured) -> Latency:
    def quantiles(seconds: NDArray[np.float64]) -> Quantiles:
        return Quantiles(p50=float(np.quantile(seconds, 0.5)), p95=float(np.quantile(seconds, 0.95)))

    gradient = reader.query_seconds()
    return Latency(
        cache=reader.cache_seconds(),
        fit=fit_seconds,
        gradient=quantiles(gradient),
        score=quantiles(measured.seconds),
        query=quantiles(gradient + measured.seconds),
    )
