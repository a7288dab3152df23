"""The hooks that a plugin may implement. Each takes a `register` callback or observes a run; none returns a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from attrbench.contracts.dataset_builder import Preparation
    from attrbench.contracts.executor import Executor
    from attrbench.contracts.ground_truth import GroundTruth
    from attrbench.contracts.method import Method
    from attrbench.contracts.metric import Metric
    from attrbench.contracts.record import Record
    from attrbench.contracts.task import Task

hookspec = pluggy.HookspecMarker("attrbench")
hookimpl = pluggy.HookimplMarker("attrbench")


@hookspec
def register_methods(register: Callable[[type[Method[Any]]], None]) -> None:
    """Call `register(MethodClass)` for each method."""


@hookspec
def register_tasks(register: Callable[[type[Task[Any]]], None]) -> None:
    """Call `register(TaskClass)` for each task."""


@hookspec
def register_metrics(register: Callable[[type[Metric]], None]) -> None:
    """Call `register(MetricClass)` for each metric."""


@hookspec
def register_executors(register: Callable[[type[Executor[Any]]], None]) -> None:
    """Call `register(ExecutorClass)` for each way to carry out the shards of a pass."""


@hookspec
def register_ground_truths(register: Callable[[type[GroundTruth[Any]]], None]) -> None:
    """Call `register(GroundTruthClass)` for each ground truth."""


@hookspec
def register_preparations(register: Callable[[type[Preparation[Any]]], None]) -> None:
    """Call `register(PreparationClass)` for each data set that can be put together."""


@hookspec
def register_model_families(register: Callable[[str, str, str], None]) -> None:
    """Call `register(name, summary, "package.module:FamilyClass")` for each kind of model that can be opened."""


@hookspec
def stage_started(stage: str, total: int) -> None:
    """A stage of a run begins; `total` is its number of steps."""


@hookspec
def stage_finished(stage: str, seconds: float) -> None:
    """A stage of a run ended."""


@hookspec
def record_written(record: Record, path: Path) -> None:
    """A record was written to `path`."""
