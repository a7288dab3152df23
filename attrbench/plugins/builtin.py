"""What the core registers about itself: its metrics and its executor, through the hooks that plugins use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrbench.contracts.executor import Executor
from attrbench.contracts.metric import Metric
from attrbench.executors.inline import InlineExecutor
from attrbench.executors.processes import ProcessesExecutor
from attrbench.metrics.retrieval import AnnRecall, AveragePrecision, DetectionRate, Recall
from attrbench.plugins.hookspecs import hookimpl


@hookimpl
def register_metrics(register: Callable[[type[Metric]], None]) -> None:
    """The metrics of DMin's tables and their uncapped relatives."""
    for metric in (DetectionRate, Recall, AveragePrecision, AnnRecall):
        register(metric)


@hookimpl
def register_executors(register: Callable[[type[Executor[Any]]], None]) -> None:
    """This process, or several."""
    for executor in (InlineExecutor, ProcessesExecutor):
        register(executor)
